"""Commands other than train."""

from __future__ import annotations

import pytest

from tests.bad_inputs.cases_commands import COMMANDS
from tests.bad_inputs.running import check_refused, refusal


@pytest.mark.parametrize(
    ("command", "arguments", "says"), [pytest.param(c, a, s, id=name) for name, c, a, s in COMMANDS]
)
def test_command(command, arguments, says, files, cwd):
    argv = [files.fill(argument) for argument in arguments]
    check_refused(refusal(command, argv, cwd), says, cwd)
