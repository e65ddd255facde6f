"""Tables of components: a name is known before its module is imported, and taken only once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tokenkit.errors import ConfigError
from tokenkit.registry import Registry


@pytest.fixture
def table(tmp_path, monkeypatch) -> Iterator[Registry]:
    """A table with a component of its own, "slow", in a module that is not imported yet."""
    made = Registry("component", {"slow": "slow_module"})
    monkeypatch.setitem(sys.modules, "the_table", SimpleNamespace(TABLE=made))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "slow_module.py").write_text(
        "from the_table import TABLE\n\n\n"
        "@TABLE.register('slow')\ndef slow():\n    return 'found'\n"
    )
    yield made
    sys.modules.pop("slow_module", None)


def test_a_name_is_known_before_its_module_is_imported(table):
    assert "slow" in table and table.names() == ["slow"]
    assert "slow_module" not in sys.modules
    assert table.get("slow")() == "found"
    assert "slow_module" in sys.modules and table.names() == ["slow"]


def test_a_name_is_taken_once(table):
    with pytest.raises(ValueError, match="component 'slow' is registered twice"):
        table.register("slow")(lambda: None)
    table.register("own")(lambda: None)
    with pytest.raises(ValueError, match="component 'own' is registered twice"):
        table.register("own")(lambda: None)
    assert table.names() == ["own", "slow"]


def test_an_unknown_name_lists_those_that_exist(table):
    with pytest.raises(ConfigError, match=r"unknown component 'slo'; did you mean 'slow'\?.*slow"):
        table.get("slo")
