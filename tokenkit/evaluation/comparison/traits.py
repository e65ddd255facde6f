"""Ways in which tokenizers differ that change what a model can know, not just its speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenkit.evaluation.comparison.entry import Entry
from tokenkit.tokenizers import ByteifiedTokenizer

NUMBERS = ("1234567890", " 1234567890", "x = 20240229.", "0000000000")


@dataclass(frozen=True)
class Traits:
    """How a tokenizer treats what matters.

    Attributes:
        longest_number: digits of the longest token that numbers are cut into.
        begins_with: the token that texts begin with, "" if none.
        prefix_space: whether encoding puts a space before a text.
        normal_form: Unicode form that text is brought into, "" if none.
        has_chat: whether there is a chat template.
    """

    longest_number: int
    begins_with: str
    prefix_space: bool
    normal_form: str
    has_chat: bool

    @classmethod
    def of(cls, tok: ByteifiedTokenizer) -> Traits:
        """The traits of a tokenizer."""
        tokens = [tok.token_bytes[i] for text in NUMBERS for i in tok.encode_text(text)]
        digits = [sum(byte in b"0123456789" for byte in token) for token in tokens]
        return cls(
            max(digits, default=0), tok.text_bos, tok.adds_prefix_space, tok.normal_form,
            tok.chat is not None,
        )  # fmt: skip

    def words(self) -> dict[str, str]:
        """Each trait in words."""
        longest = self.longest_number
        digits = "one by one" if longest <= 1 else f"up to {longest} in a token"
        return {
            "Digits": digits,
            "Texts begin with": self.begins_with or "no BOS",
            "Space before texts": "put there" if self.prefix_space else "as written",
            "Unicode form": self.normal_form or "as written",
            "Chat template": "yes" if self.has_chat else "none",
        }


CONSEQUENCES = {
    "Digits": "arithmetic learnt with other pieces of numbers does not carry over by itself",
    "Texts begin with": "models lean on BOS as an attention sink; the first token of a text is "
    "predicted from something else",
    "Space before texts": "the first word of a text is another token",
    "Unicode form": "some characters are changed before the model sees them",
    "Chat template": "one of them was not made for chats, or writes them in another way",
}


def trait_table(entries: Sequence[Entry]) -> dict[str, dict[str, str]]:
    """Each model's traits in words."""
    return {entry.name: Traits.of(entry.tok).words() for entry in entries}


def mismatches(table: dict[str, dict[str, str]], teacher: str) -> list[dict[str, Any]]:
    """Where models differ from the teacher, with why it matters."""
    found = []
    for trait, expected in table[teacher].items():
        others: dict[str, list[str]] = {}
        for name, said in table.items():
            if said[trait] != expected:
                others.setdefault(said[trait], []).append(name)
        for words, names in others.items():
            text = f"{trait} – {teacher}: {expected}; {', '.join(names)}: {words}"
            found.append(
                {"trait": trait, "models": names, "text": text, "why": CONSEQUENCES[trait]}
            )
    return found
