"""Losses built from a config: what they need beyond a teacher cache."""

from __future__ import annotations

import pytest

from tokenkit.config import config_from_dict
from tokenkit.errors import ConfigError
from tokenkit.losses import LOSSES, Loss, build_losses


class Late(Loss):
    """Only its settings tell that it needs hidden states."""

    name = "late"
    needs = frozenset({"label"})

    def __init__(self, config, student_tok=None, teacher_tok=None) -> None:
        super().__init__(config)
        self.needs = frozenset({"label", "hidden"})


@pytest.mark.parametrize("cache", ["", "folder"])
def test_needs_known_late_are_refused_with_a_cache(monkeypatch, cache):
    monkeypatch.setitem(LOSSES._items, "late", Late)
    config = config_from_dict({"loss": {"names": ["late"]}, "teacher": {"cache": cache}})
    if not cache:
        assert [loss.name for loss in build_losses(config, None, None, 8, 8)] == ["late"]
        return
    with pytest.raises(ConfigError, match='teacher.cache holds log-probs only.*"late".*hidden'):
        build_losses(config, None, None, 8, 8)
