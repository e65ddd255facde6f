"""Ids of one tokenizer in those of another."""

from __future__ import annotations

from collections.abc import Iterable

from tokenkit.tokenizers.roles import special_pairs
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer


class IdTranslation:
    """Ids of one tokenizer in another: the token of the same name, else of the same role."""

    def __init__(self, source: ByteifiedTokenizer, target: ByteifiedTokenizer) -> None:
        self.source, self.target = source, target
        roles = special_pairs(source, target, len(source))
        self.by_role = {theirs: ours for ours, theirs in roles.items()}

    def __call__(self, i: int) -> int | None:
        """The target's id of a source's id; None if it has no such token."""
        token = self.source.tokens[i] if 0 <= i < len(self.source) else ""
        return self.target.ids.get(token, self.by_role.get(i)) if token else None

    def of(self, value: int | Iterable[int] | None) -> int | list[int] | None:
        """An id or a list of ids; what has no counterpart is left out."""
        if value is None or isinstance(value, int):
            return None if value is None else self(value)
        found = (self(i) for i in value)
        return list(dict.fromkeys(i for i in found if i is not None))
