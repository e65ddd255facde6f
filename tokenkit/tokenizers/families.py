"""Model families: which tokens play which role. A new family is one table entry.

Roles are named by neutral markers, which prompts use instead of any family's own tokens.
Token strings are *byteified* (GPT-2's byte alphabet; "Ċ" is a newline).
"""

from __future__ import annotations

from dataclasses import dataclass

BOS, PAD, EOS, EOT = "<|<bos>|>", "<|<pad>|>", "<|<eos>|>", "<|<eot>|>"
START_HEADER, END_HEADER = "<|<start_header>|>", "<|<end_header>|>"
SYSTEM, USER, ASSISTANT = "<|<system_name>|>", "<|<user_name>|>", "<|<assistant_name>|>"

MARKERS = (BOS, PAD, START_HEADER, END_HEADER, EOS, EOT, SYSTEM, USER, ASSISTANT)
ROLE_MARKERS = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}

Replacements = dict[str, tuple[str, ...] | None]


@dataclass(frozen=True)
class Family:
    """A family's special tokens and the tokens that stand for each marker (None: nothing)."""

    name: str
    special_tokens: tuple[str, ...]
    replacements: Replacements

    @property
    def has_headers(self) -> bool:
        """Whether chat turns name their role."""
        return self.replacements[USER] is not None


def _family(
    name: str,
    special_tokens: str,
    *,
    pad: str,
    eos: str,
    eot: str,
    bos: str | None = None,
    start: str | None = None,
    end: str | None = None,
    roles: str | None = None,
) -> Family:
    """Tokens are given as space-separated strings; ``roles`` are system, user and assistant."""

    def tokens(text: str | None) -> tuple[str, ...] | None:
        return None if text is None else tuple(text.split(" "))

    system, user, assistant = roles.split(" ") if roles else (None, None, None)
    replacements = {
        BOS: tokens(bos),
        PAD: tokens(pad),
        START_HEADER: tokens(start),
        END_HEADER: tokens(end),
        EOS: tokens(eos),
        EOT: tokens(eot),
        SYSTEM: tokens(system),
        USER: tokens(user),
        ASSISTANT: tokens(assistant),
    }
    return Family(name, tuple(special_tokens.split(" ")), replacements)


_CHATML = {
    "special_tokens": "<|im_start|> <|im_end|> <|endoftext|>",
    "pad": "<|endoftext|>",
    "eos": "<|endoftext|>",
    "eot": "<|im_end|> Ċ",
    "start": "<|im_start|>",
    "end": "Ċ",
    "roles": "system user assistant",
}
_GEMMA = {
    "special_tokens": "<bos> <start_of_turn> <end_of_turn> <eos> <pad>",
    "bos": "<bos>",
    "pad": "<pad>",
    "eos": "<eos>",
    "eot": "<end_of_turn> Ċ",
    "start": "<start_of_turn>",
    "end": "Ċ",
    "roles": "user user model",  # no system turns: they are given as user turns
}
_LLAMA2 = {"special_tokens": "<s> </s> <unk>", "bos": "<s>", "pad": "</s>", "eos": "</s>",
           "eot": "</s>"}  # fmt: skip

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        _family("Qwen2", **_CHATML),
        # Qwen3 works without BOS; one is given for the sake of transfers from models that have it.
        _family("Qwen3", **_CHATML, bos="<|endoftext|>"),
        _family(
            "Llama3",
            "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|end_of_text|>",
            bos="<|begin_of_text|>",
            pad="<|end_of_text|>",
            eos="<|eot_id|>",
            eot="<|eot_id|>",
            start="<|start_header_id|>",
            end="<|end_header_id|> ĊĊ",
            roles="system user assistant",
        ),
        _family("Gemma2", **_GEMMA),
        _family("Gemma3", **_GEMMA),
        _family(
            "Phi3",
            "<|user|> <|assistant|> <|end|> <|endoftext|>",
            pad="<|endoftext|>",
            eos="<|endoftext|>",
            eot="<|end|> Ċ",
            end="Ċ",
            roles="<|user|> <|user|> <|assistant|>",
        ),
        _family(
            "GPT2", "<|endoftext|>", pad="<|endoftext|>", eos="<|endoftext|>", eot="<|endoftext|>"
        ),  # fmt: skip
        _family("TinyLlama", **_LLAMA2),
        _family("Mistral", **_LLAMA2),
    )
}


def guess_family(vocabulary: set[str]) -> Family | None:
    """The family whose special tokens are all in ``vocabulary``; the one with most wins."""
    fitting = [f for f in FAMILIES.values() if set(f.special_tokens) <= vocabulary]
    return max(fitting, key=lambda f: len(f.special_tokens), default=None)
