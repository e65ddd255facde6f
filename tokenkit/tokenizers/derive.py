"""A family read off a tokenizer: its special tokens, and its chat template fed with sentinels.

Nothing but the tokenizer itself is needed, so a tokenizer of any origin can be used without an
entry in :data:`~tokenkit.tokenizers.families.FAMILIES`. The rules are in this folder's README.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from tokenkit.errors import TokenizerError
from tokenkit.tokenizers.alphabet import to_alphabet
from tokenkit.tokenizers.chat.limit import time_limit
from tokenkit.tokenizers.families import FAMILIES, Family, Tokens, make_family
from tokenkit.tokenizers.markers import literal_pattern

SYSTEM, USER, ASSISTANT, USER_2, ASSISTANT_2 = (
    "zqsystemqz",
    "zqaskqz",
    "zqreplyqz",
    "zqaskagainqz",
    "zqreplyagainqz",
)
LONGEST_NAME = 32


class Item(NamedTuple):
    """A special token, or a stretch of plain text, of a chat template's output."""

    text: str
    is_token: bool


@dataclass(frozen=True)
class Roles:
    """How a chat template writes turns; every field as items of its output."""

    start_header: tuple[Item, ...]
    end_header: tuple[Item, ...]
    eot: tuple[Item, ...]
    names: tuple[tuple[Item, ...], ...]  # of system, user, assistant


def derive_family(hf: PreTrainedTokenizerFast, spec: str) -> Family:
    """The family of a tokenizer whose spec names none.

    Raises:
        TokenizerError: if the tokenizer has no token that ends a text; the message lists the
            families one can name instead.
    """
    vocabulary = hf.get_vocab()
    roles = None
    if hf.chat_template:
        roles = _read_template(hf, spec)
    elif (known := known_family(vocabulary)) is not None:
        return known
    family = _family(hf, roles, spec)
    same = [f for f in FAMILIES.values() if f.replacements == family.replacements]
    return _best_known(same, vocabulary) or family


def known_family(vocabulary: Collection[str]) -> Family | None:
    """The family of the table, with headers, whose special tokens are all there."""
    return _best_known([f for f in FAMILIES.values() if f.has_headers], vocabulary)


def _best_known(families: list[Family], vocabulary: Collection[str]) -> Family | None:
    """Of the families whose special tokens are all there, the one with most evidence."""

    def evidence(family: Family) -> tuple[int, int]:
        hints = sum(token in vocabulary for token in family.hints)
        # A family whose hints are absent yields to one that needs none.
        return len(family.special_tokens), hints if hints else -len(family.hints)

    present = [f for f in families if all(token in vocabulary for token in f.special_tokens)]
    return max(present, key=evidence, default=None)


def _family(hf: PreTrainedTokenizerFast, roles: Roles | None, spec: str) -> Family:
    eot = _tokens(roles.eot) if roles else None
    eos = hf.eos_token or next((t for t in eot or () if t in hf.get_vocab()), None)
    if eos is None:
        raise TokenizerError(
            f"cannot tell the family of tokenizer '{spec}': it names no EOS token and has no chat "
            f"template that works and ends turns; add ':source=NAME' to the spec (available: "
            f"{', '.join(sorted(FAMILIES))})"
        )
    bos = (hf.bos_token,) if _begins_with_bos(hf) else None
    pad = hf.pad_token or _end_of_text(hf) or eos
    headers: dict = {}
    if roles:
        headers["start_header"] = _tokens(roles.start_header)
        headers["end_header"] = _tokens(roles.end_header)
        headers["names"] = tuple(_tokens(name) for name in roles.names)
    special = [bos[0] if bos else None, pad, eos]
    if roles:
        items = (*roles.start_header, *roles.end_header, *roles.eot, *sum(roles.names, ()))
        special += [item.text for item in items if item.is_token]
    ids = hf.get_vocab()
    special_tokens = sorted({token for token in special if token in ids}, key=ids.__getitem__)
    return make_family(
        "derived",
        tuple(special_tokens),
        bos=bos,
        pad=(pad,),
        eos=(eos,),
        eot=eot or (eos,),
        **headers,
    )


def _tokens(items: tuple[Item, ...]) -> Tokens:
    """Items as byteified tokens; None if there are none."""
    return tuple(i.text if i.is_token else to_alphabet(i.text.encode()) for i in items) or None


def _begins_with_bos(hf: PreTrainedTokenizerFast) -> bool:
    """Whether texts begin with BOS by the post-processor, or chats do."""
    if hf.bos_token is None:
        return False
    if hf("a")["input_ids"][:1] == [hf.bos_token_id]:
        return True
    rendered = _render(hf, [("user", USER)]) if hf.chat_template else None
    return rendered is not None and rendered.startswith(hf.bos_token)


def _end_of_text(hf: PreTrainedTokenizerFast) -> str | None:
    """A special token that ends texts, for tokenizers without PAD: what follows it is nothing."""
    names = [t.content for t in hf.added_tokens_decoder.values() if t.special]
    return next((name for name in names if re.search("end_?of_?text", name)), None)


# Chat templates -------------------------------------------------------------------------------


def _render(hf: PreTrainedTokenizerFast, turns: list[tuple[str, str]]) -> str | None:
    """The template's output, None if it refuses these turns."""
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        with time_limit():
            return hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    except TokenizerError as error:
        raise TokenizerError(f"tokenizer '{hf.name_or_path}': {error}") from error
    except Exception:  # Jinja's errors, and whatever a template may run into
        return None


def _read_template(hf: PreTrainedTokenizerFast, spec: str) -> Roles | None:
    """How the template writes turns; None if neutral markers cannot say it."""
    roles = None
    dialog = [("user", USER), ("assistant", ASSISTANT), ("user", USER_2)]
    rendered = _render(hf, [*dialog, ("assistant", ASSISTANT_2)])
    if rendered is not None and all(s in rendered for s in (USER, ASSISTANT, USER_2, ASSISTANT_2)):
        roles = _read_turns(hf, rendered)
    return roles


def _read_turns(hf: PreTrainedTokenizerFast, rendered: str) -> Roles | None:
    before, rest = rendered.split(USER)
    to_assistant, rest = rest.split(ASSISTANT)
    to_user, rest = rest.split(USER_2)
    after = rest.split(ASSISTANT_2)[1]
    before = before.removeprefix(hf.bos_token or "")
    eot = after
    if not (eot and to_user.startswith(eot) and to_assistant.startswith(eot)):
        # The template ends with more than the turn (EOS, the next header); but it begins with
        # the user's header, which is then what follows the end of a turn, too.
        eot = to_user[: -len(before)] if before and to_user.endswith(before) else ""
        if not (eot and to_assistant.startswith(eot)):
            return None
    split = _Splitter(hf)
    user, assistant = (split(text[len(eot) :]) for text in (to_user, to_assistant))
    parts = _split_headers(user, assistant)
    if parts is None:
        return None
    start, end, user_name, assistant_name = parts
    if not ((*start, *user_name)[0].is_token and (*start, *assistant_name)[0].is_token):
        return None
    system = _system_name(hf, split, _text(start), _text(end)) or user_name
    return Roles(start, end, split(eot), (system, user_name, assistant_name))


class _Splitter:
    """Cuts a template's output at tokens that cannot be ordinary text."""

    def __init__(self, hf: PreTrainedTokenizerFast) -> None:
        added = hf.added_tokens_decoder.values()
        names = [t.content for t in added if t.special or re.fullmatch(r"[<\[]\S+[>\]]", t.content)]
        # The longest first: one may be another's beginning.
        names.sort(key=len, reverse=True)
        self.pattern = re.compile(f"({literal_pattern(names)})") if names else None

    def __call__(self, text: str) -> tuple[Item, ...]:
        parts = self.pattern.split(text) if self.pattern else [text]
        return tuple(Item(part, bool(k % 2)) for k, part in enumerate(parts) if part)


def _text(items: tuple[Item, ...]) -> str:
    return "".join(item.text for item in items)


def _split_headers(
    a: tuple[Item, ...], b: tuple[Item, ...]
) -> tuple[tuple[Item, ...], tuple[Item, ...], tuple[Item, ...], tuple[Item, ...]] | None:
    """Two roles' headers as common start, common end, and the two names between; None if equal."""
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    beginning, a, b = a[:start], a[start:], b[start:]
    end: tuple[Item, ...] = ()
    while a and b and a[-1] == b[-1]:
        end, a, b = (a[-1], *end), a[:-1], b[:-1]
    if a and b and not a[-1].is_token and not b[-1].is_token:
        # "user\n" and "assistant\n": what follows the word is the header's end.
        tails = [re.fullmatch(r"(.*?\w)(\W*)", item.text, re.DOTALL) for item in (a[-1], b[-1])]
        if all(tails) and tails[0][2] and tails[0][2] == tails[1][2]:
            end = (Item(tails[0][2], False), *end)
            a, b = ((*n[:-1], Item(t[1], False)) for n, t in zip((a, b), tails, strict=True))
    return (beginning, end, a, b) if a and b else None


def _system_name(
    hf: PreTrainedTokenizerFast, split: _Splitter, start: str, end: str
) -> tuple[Item, ...] | None:
    """What the system's header has for a name; None if there is no turn of the system's own."""
    turns = [("system", SYSTEM), ("user", USER), ("assistant", ASSISTANT)]
    rendered = _render(hf, turns)
    if rendered is None or SYSTEM not in rendered:
        return None
    before = rendered.split(SYSTEM)[0].removeprefix(hf.bos_token or "")
    if not before.startswith(start):
        return None
    # A template may put a text of its own before the system's (the date, in Llama 3.1).
    name, found, _ = before[len(start) :].partition(end) if end else (before[len(start) :], "x", "")
    items = split(name)
    return items if found and len(items) == 1 and len(name) <= LONGEST_NAME else None
