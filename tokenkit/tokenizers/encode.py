"""From rows to ids, the bytes each token stands for, and what the loss counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np

from tokenkit.errors import DataError, TokenizerError
from tokenkit.tokenizers.alignment.locate import locate_rows
from tokenkit.tokenizers.chat.marked import encode_marked, with_markers
from tokenkit.tokenizers.chat.template import Conversation, Spans
from tokenkit.tokenizers.chat.writing import ChatWriter, Part, WrittenChat, without
from tokenkit.tokenizers.families import MARKERS
from tokenkit.tokenizers.guard import GUARD, well_formed
from tokenkit.tokenizers.ranges import to_bytes, tokens_inside
from tokenkit.tokenizers.rows import Document, EncodedRow, Reading, Row, in_form
from tokenkit.tokenizers.tokenizer import ByteifiedTokenizer

# A text is first cut to this many characters per wanted token; real text needs about four.
CLIP_CHARACTERS_PER_TOKEN = 24
# Tokens this close to a cut may differ from those of the whole text.
CLIP_MARGIN = 16


@dataclass
class _Draft:
    """A row on its way to ids."""

    row: Row
    chat: WrittenChat | None
    text: str  # to encode, special tokens guarded
    guarded: bool
    whole: bool = True
    ids: np.ndarray = field(init=False)


def encode_rows(
    tok: ByteifiedTokenizer,
    rows: Sequence[Row],
    reading: Reading | None = None,
    max_length: int | None = None,
) -> list[EncodedRow]:
    """Encode rows in as few calls as possible.

    Args:
        max_length: tokens wanted of each row; one more is returned where there are more.

    Raises:
        DataError: if a chat cannot be written by the tokenizer's template, or a row spells a
            special token and may not, or cannot be read as text.
        TokenizerError: if there is a chat but no template.
    """
    reading = reading or Reading()
    if reading.spelt == "parse" and any(isinstance(row, Document) for row in rows):
        return [
            encode_marked(tok, with_markers(row)) if isinstance(row, Document)
            else encode_rows(tok, [row], reading, max_length)[0]
            for row in rows
        ]  # fmt: skip
    drafts = []
    for row in rows:
        try:
            chat = write_chat(tok, row) if isinstance(row, Conversation) else None
            drafts.append(_draft(tok, row, chat, reading))
        except (DataError, TokenizerError) as error:
            raise _placed(row, error) from error
    _encode(tok, drafts, max_length)
    texts = [_seen(tok, draft) for draft in drafts]
    data = [text.encode() for text in texts]
    located = locate_rows(tok, [draft.ids for draft in drafts], data)
    ranges = []
    for draft, text in zip(drafts, texts, strict=True):
        try:
            ranges.append(_counted(tok, draft, text, reading))
        except DataError as error:
            raise _placed(draft.row, error) from error
    counted = tokens_inside(ranges, located, [len(raw) for raw in data])
    return [
        _chat(tok, draft, text, raw, places, counts)
        if draft.chat
        else _document(tok, draft, raw, places, counts)
        for draft, text, raw, places, counts in zip(
            drafts, texts, data, located, counted, strict=True
        )
    ]


def _placed(row: Row, error: DataError | TokenizerError) -> DataError | TokenizerError:
    """The error, beginning with the row's file and line."""
    return type(error)(f"{row.where}: {error}") if row.where else error


def write_chat(tok: ByteifiedTokenizer, chat: Conversation) -> WrittenChat:
    """Raises TokenizerError without a template, DataError if the template refuses the chat."""
    return chat_writer(tok).write(chat)


def chat_writer(tok: ByteifiedTokenizer) -> ChatWriter:
    """The tokenizer's writer, made once.

    Raises:
        TokenizerError: if it has no chat template.
    """
    if tok.writer is None:
        if tok.chat is None:
            raise TokenizerError(
                f"tokenizer '{tok.spec}' has no chat template, so it cannot read conversations; "
                "name a family in its spec (':target=Qwen2', say) or use plain texts"
            )
        special = [t.content for t in tok.hf.added_tokens_decoder.values() if t.special]
        tok.writer = ChatWriter(tok.chat, special)
    return tok.writer


def chat_ids(
    tok: ByteifiedTokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    **options: Any,
) -> list[int]:
    """Ids of a chat; see :meth:`ByteifiedTokenizer.encode_chat`."""
    written = write_chat(tok, Conversation(messages, tools, options, add_generation_prompt))
    draft = _draft(tok, written.chat, written, Reading())
    _encode(tok, [draft], None)
    return draft.ids.tolist()


# From rows to ids -----------------------------------------------------------------------------


def _draft(tok: ByteifiedTokenizer, row: Row, chat: WrittenChat | None, reading: Reading) -> _Draft:
    """Say what is to be encoded; special tokens that are meant are guarded if others are not."""
    if isinstance(row, Document):
        text = well_formed(row.text)
        spelt = tok.spelt_special.search(text) if tok.spelt_special else None
        if reading.spelt == "refuse":
            _refuse_spelt(text, spelt[0] if spelt else None)
        if reading.spelt == "text" and spelt and GUARD in text:
            raise DataError("the text spells a special token and holds U+10FFFD; take one out")
        return _Draft(row, chat, text, guarded=bool(spelt) and reading.spelt == "text")
    text = chat.text
    if reading.spelt == "refuse":
        for content in chat.contents:
            spelt = tok.spelt_special.search(content.text) if tok.spelt_special else None
            _refuse_spelt(content.text, spelt[0] if spelt else None)
    if reading.spelt != "parse" and chat.special_name:
        raise DataError(
            f"the chat spells the special token '{chat.special_name}' in a name, a key, a tool or "
            "an option, where it cannot be read as text"
        )
    if reading.spelt == "parse" or not chat.spelt:
        return _Draft(row, chat, text, guarded=False)
    if GUARD in text:
        raise DataError("the chat spells a special token and holds U+10FFFD; take one out")
    meant = [found.start() for found in tok.spelt_special.finditer(text)]
    holes = {begin for begin, _ in chat.spelt}
    cuts = [0, *(at for at in meant if at not in holes), len(text)]
    guarded = GUARD.join(text[a:b] for a, b in zip(cuts, cuts[1:], strict=False))
    return _Draft(row, chat, guarded, guarded=True)


def _refuse_spelt(text: str, special: str | None) -> None:
    found = special or next((marker for marker in MARKERS if marker in text), None)
    if found:
        raise DataError(
            f"the text spells '{found}', which is no ordinary text (chat.special_tokens = "
            "'refuse'; 'text' reads it as text)"
        )


def _encode(tok: ByteifiedTokenizer, drafts: list[_Draft], max_length: int | None) -> None:
    """Fill in the ids; texts certainly too long are encoded in part."""
    budget = None if max_length is None else CLIP_CHARACTERS_PER_TOKEN * max_length
    for guarded in (False, True):
        todo = [draft for draft in drafts if draft.guarded is guarded]
        if not todo:
            continue
        found = tok.encode_texts([draft.text[:budget] for draft in todo], guarded)
        for draft, ids in zip(todo, found, strict=True):
            draft.ids = ids
            draft.whole = budget is None or len(draft.text) <= budget
            if not draft.whole and len(ids) < max_length + CLIP_MARGIN:
                draft.ids, draft.whole = tok.encode_texts([draft.text], guarded)[0], True
            if not draft.whole:
                draft.ids = draft.ids[: max_length + 1]
            if guarded:
                _check_guarded(tok, draft)


def _check_guarded(tok: ByteifiedTokenizer, draft: _Draft) -> None:
    """Refuse a row of whose ordinary text the tokenizer's model itself makes a special token."""
    special = int(np.isin(draft.ids, list(tok.guard.special)).sum())
    if special > (draft.text.count(GUARD) if draft.chat else 0):
        raise _placed(
            draft.row,
            DataError(
                f"the row spells a special token, which tokenizer '{tok.spec}' cannot write as "
                "text (chat.special_tokens = 'parse' reads it as the token)"
            ),
        )


# From ids to places ---------------------------------------------------------------------------


def _seen(tok: ByteifiedTokenizer, draft: _Draft) -> str:
    """The row's text in the tokenizer's form, without guards."""
    return in_form(draft.text if draft.chat is None else draft.chat.text, tok.normal_form)


def _counted(tok: ByteifiedTokenizer, draft: _Draft, text: str, reading: Reading) -> Spans | None:
    """Byte ranges of the row that the loss counts; None if it counts every token.

    Args:
        text: as :func:`_seen`.
    """
    if draft.chat is not None:
        if reading.loss_on == "all" and not draft.chat.spelt:
            return None
        return _moved(tok, draft.chat, text, draft.chat.counted(reading.loss_on))
    spelt = [m.span() for m in tok.spelt_special.finditer(text)] if draft.guarded else []
    return to_bytes(text, without([(0, len(text))], spelt)) if spelt else None


def _document(
    tok: ByteifiedTokenizer,
    draft: _Draft,
    data: bytes,
    located: tuple[np.ndarray, np.ndarray],
    counted: np.ndarray | None,
) -> EncodedRow:
    """The text's tokens with BOS and EOS around them."""
    row = cast(Document, draft.row)
    bos = tok.ids[tok.text_bos] if row.bos and tok.text_bos else None
    eos = tok.eos_id if row.eos and draft.whole else None
    before, after = (b"" if i is None else tok.token_bytes[i] for i in (bos, eos))
    first = int(bos is not None)
    own = slice(first, first + len(draft.ids))
    size = own.stop + int(eos is not None)
    ids, counts = np.empty(size, np.int32), np.ones(size, bool)
    places = np.empty((2, size), np.int64)  # begins and ends
    ids[own], places[:, own] = draft.ids, located
    if counted is not None:
        counts[own] = counted
    stop = len(before) + len(data)
    parts = [Part("content", 0, 0, len(before), stop)]
    if bos is not None:
        ids[0], places[:, 0] = bos, (0, len(before))
        places[:, own] += len(before) * (located[0] >= 0)
        parts.insert(0, Part("unit", "bos", 0, 0, len(before)))
    if eos is not None:
        ids[-1], places[:, -1] = eos, (stop, stop + len(after))
        parts.append(Part("unit", "eos", 0, stop, stop + len(after)))
    return EncodedRow(before + data + after, ids, places[0], places[1], counts, lambda: parts)


def _chat(
    tok: ByteifiedTokenizer,
    draft: _Draft,
    normal: str,
    data: bytes,
    located: tuple[np.ndarray, np.ndarray],
    counted: np.ndarray | None,
) -> EncodedRow:
    chat = cast(WrittenChat, draft.chat)
    counted = np.ones(len(draft.ids), bool) if counted is None else counted
    return EncodedRow(data, draft.ids, *located, counted, partial(_parts, tok, chat, normal))


def _parts(tok: ByteifiedTokenizer, chat: WrittenChat, normal: str) -> list[Part]:
    """The chat's parts in bytes."""
    if normal is chat.text and normal.isascii():
        return chat.parts
    ranges = _moved(tok, chat, normal, [(part.begin, part.end) for part in chat.parts])
    pairs = zip(chat.parts, ranges, strict=True)
    return [Part(part.kind, part.key, part.at, *place) for part, place in pairs]


def _moved(tok: ByteifiedTokenizer, chat: WrittenChat, normal: str, ranges: Spans) -> Spans:
    """Ranges of the chat's text in bytes of its normal form."""

    def place(at: int) -> int:
        return len(in_form(chat.text[:at], tok.normal_form))

    if normal is not chat.text:
        ranges = [(place(first), place(last)) for first, last in ranges]
    return to_bytes(normal, ranges)
