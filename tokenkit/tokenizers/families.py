"""Model families: which tokens stand for the neutral markers of a prompt.

Prompts are written with neutral markers (``<|<bos>|>``, ``<|<start_header>|>`` …). A family says
what each of them is in its own tokens, byteified ("Ċ" is a newline). None: the family has no such
token and the marker vanishes. A new family is one entry of :data:`FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tokenkit.errors import TokenizerError
from tokenkit.registry import did_you_mean

BOS, PAD, START_HEADER, END_HEADER, EOS, EOT, SYSTEM_NAME, USER_NAME, ASSISTANT_NAME = MARKERS = (
    "<|<bos>|>",
    "<|<pad>|>",
    "<|<start_header>|>",
    "<|<end_header>|>",
    "<|<eos>|>",
    "<|<eot>|>",
    "<|<system_name>|>",
    "<|<user_name>|>",
    "<|<assistant_name>|>",
)
ROLE_MARKERS = {"system": SYSTEM_NAME, "user": USER_NAME, "assistant": ASSISTANT_NAME}

Tokens = tuple[str, ...] | None


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        special_tokens: tokens the family adds to a tokenizer that lacks them, in this order.
        replacements: for every marker, the family's byteified tokens, or None.
        hints: tokens that tell this family from another one with the same special tokens.
    """

    name: str
    special_tokens: tuple[str, ...]
    replacements: Mapping[str, Tokens]
    hints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Families are shared by all tokenizers, so nobody may change one.
        object.__setattr__(self, "replacements", MappingProxyType(dict(self.replacements)))

    def __reduce__(self) -> tuple:
        """Read-only mappings cannot be pickled, and data workers pickle tokenizers."""
        return Family, (self.name, self.special_tokens, dict(self.replacements), self.hints)

    @property
    def has_headers(self) -> bool:
        """Whether chat turns can be written with this family's tokens."""
        return self.replacements[USER_NAME] is not None

    def template_tokens(self) -> set[str]:
        """Every byteified token that a marker can become."""
        return {t for tokens in self.replacements.values() if tokens is not None for t in tokens}


def make_family(
    name: str,
    special_tokens: tuple[str, ...],
    *,
    bos: Tokens,
    pad: Tokens,
    eos: Tokens,
    eot: Tokens,
    start_header: Tokens = None,
    end_header: Tokens = None,
    names: tuple[Tokens, Tokens, Tokens] = (None, None, None),
    hints: tuple[str, ...] = (),
) -> Family:
    """A family from its tokens by role; ``names`` are those of system, user and assistant."""
    values = (bos, pad, start_header, end_header, eos, eot, *names)
    return Family(name, special_tokens, dict(zip(MARKERS, values, strict=True)), hints)


_ROLE_NAMES = (("system",), ("user",), ("assistant",))
_QWEN: dict[str, Any] = {
    "special_tokens": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "pad": ("<|endoftext|>",),
    "start_header": ("<|im_start|>",),
    "end_header": ("Ċ",),
    "eos": ("<|endoftext|>",),
    "eot": ("<|im_end|>", "Ċ"),
    "names": _ROLE_NAMES,
}
_GEMMA: dict[str, Any] = {
    "special_tokens": ("<bos>", "<start_of_turn>", "<end_of_turn>", "<eos>", "<pad>"),
    "bos": ("<bos>",),
    "pad": ("<pad>",),
    "start_header": ("<start_of_turn>",),
    "end_header": ("Ċ",),
    "eos": ("<eos>",),
    "eot": ("<end_of_turn>", "Ċ"),
    "names": (("user",), ("user",), ("model",)),  # no system turn
}
_LLAMA2: dict[str, Any] = {
    "special_tokens": ("<s>", "</s>", "<unk>"),
    "bos": ("<s>",),
    "pad": ("</s>",),
    "eos": ("</s>",),
    "eot": ("</s>",),
}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        make_family("Qwen2", bos=None, **_QWEN),
        # Qwen3 needs no BOS, but takes one; it makes transfer from families with BOS simpler.
        make_family("Qwen3", bos=("<|endoftext|>",), hints=("<think>", "</think>"), **_QWEN),
        make_family(
            "Llama3",
            (
                "<|begin_of_text|>",
                "<|start_header_id|>",
                "<|end_header_id|>",
                "<|eot_id|>",
                "<|end_of_text|>",
            ),
            bos=("<|begin_of_text|>",),
            pad=("<|end_of_text|>",),
            start_header=("<|start_header_id|>",),
            end_header=("<|end_header_id|>", "ĊĊ"),
            eos=("<|eot_id|>",),  # the end of a turn ends the text, too
            eot=("<|eot_id|>",),
            names=_ROLE_NAMES,
        ),
        make_family("Gemma2", **_GEMMA),
        make_family("Gemma3", hints=("<start_of_image>",), **_GEMMA),
        make_family(
            "Phi3",
            ("<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
            bos=None,
            pad=("<|endoftext|>",),
            end_header=("Ċ",),
            eos=("<|endoftext|>",),
            eot=("<|end|>", "Ċ"),
            names=(("<|user|>",), ("<|user|>",), ("<|assistant|>",)),
        ),
        make_family(
            "GPT2",
            ("<|endoftext|>",),
            bos=None,
            pad=("<|endoftext|>",),
            eos=("<|endoftext|>",),
            eot=("<|endoftext|>",),
        ),
        make_family("TinyLlama", **_LLAMA2),
        make_family("Mistral", hints=("[INST]", "[/INST]"), **_LLAMA2),
    )
}


def get_family(name: str) -> Family:
    """Return the family called ``name``.

    Raises:
        TokenizerError: if there is none; the message lists the names that exist.
    """
    if name not in FAMILIES:
        names = sorted(FAMILIES)
        raise TokenizerError(
            f"unknown family '{name}'{did_you_mean(name, names)} (available: {', '.join(names)})"
        )
    return FAMILIES[name]
