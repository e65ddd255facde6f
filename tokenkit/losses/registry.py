"""The table of losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenkit.config import add_section
from tokenkit.losses.base import Loss
from tokenkit.models.outputs import NEEDS
from tokenkit.registry import Registry


class _Losses(Registry):
    def register(self, name: str) -> Callable[[Any], Any]:
        add = super().register(name)

        def check_and_add(loss: Any) -> Any:
            if not (isinstance(loss, type) and issubclass(loss, Loss)):
                raise TypeError(f"loss '{name}' must be a subclass of tokenkit.losses.Loss")
            if not isinstance(loss.needs, frozenset):
                raise TypeError(f"loss '{name}': needs must be a frozenset, as an attribute")
            unknown = loss.needs - set(NEEDS)
            if unknown:
                raise ValueError(
                    f"loss '{name}' needs {', '.join(sorted(unknown))}, which is none of "
                    f"{', '.join(NEEDS)}"
                )
            if loss.Settings is not None:
                add_section(loss.section or name, loss.Settings)
            return add(loss)

        return check_and_add


LOSSES = _Losses("loss")
