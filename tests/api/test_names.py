"""``import tokenkit as tk``: quick, lazy, and its examples run as printed."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys

import pytest

import tokenkit as tk
from tests.launch import SPEC_A, SPEC_B

QUICK = """
import sys, time
begin = time.perf_counter()
import tokenkit as tk
print(time.perf_counter() - begin)
assert not {"torch", "transformers", "numpy", "tokenizers"} & set(sys.modules), "heavy imports"
assert set(tk.__all__) <= set(dir(tk))
"""


def test_importing_takes_no_time_and_no_torch():
    done = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.3


def test_every_name_is_there_and_documented():
    for name in tk.__all__:
        function = getattr(tk, name)
        assert function.__name__ == name and callable(function)
        for word in ("Args:", "Raises:") if "tokenkit.api" in function.__module__ else ("Args:",):
            assert word in function.__doc__, f"{name}: no {word}"
        documented = function.__doc__
        for parameter in inspect.signature(function).parameters:
            assert f"{parameter}" in documented, f"{name}: {parameter} is not documented"


def test_no_submodule_hides_a_function():
    for name in tk.__all__:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"tokenkit.{name}")


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'alm_los'"):
        _ = tk.alm_los


@pytest.mark.parametrize("name", ["align", "alm_loss"])
def test_examples_in_docstrings(name):
    names = {"FOLDER_A": SPEC_A, "FOLDER_B": SPEC_B}
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(tk, name), name, globs=names)
    assert test.examples
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert result.failed == 0
