"""Settings and variables of the environment that cannot work."""

from __future__ import annotations

import pytest

from tests.bad_inputs.cases_settings import ENVIRONMENT, SETTINGS
from tests.bad_inputs.running import check_refused, refusal


@pytest.mark.parametrize(
    ("arguments", "says"), [pytest.param(a, s, id=name) for name, a, s in SETTINGS]
)
def test_setting(arguments, says, files, small_run, cwd):
    argv = small_run + [files.fill(argument) for argument in arguments]
    check_refused(refusal("train", argv, cwd), says, cwd)


@pytest.mark.parametrize(
    ("environment", "says"), [pytest.param(e, s, id=name) for name, e, s in ENVIRONMENT]
)
def test_environment(environment, says, small_run, cwd):
    check_refused(refusal("train", small_run, cwd, environment), says, cwd)
