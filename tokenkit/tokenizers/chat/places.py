"""Where each content of a chat stands in what its template wrote.

Templates trim contents, drop some and rewrite around them, so a content cannot simply be searched
for. The chat is rendered a second time with each character of its contents replaced by a private
one that tells which character of which content it is (a *tinted* chat). What comes out must equal
the real rendering character by character, and then says of each where it comes from. Blanks and
what JSON escapes are not tinted, so that templates treat both chats alike; how many blanks at a
content's ends were kept is told by rendering it without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tokenkit.errors import DataError
from tokenkit.tokenizers.chat.template import ChatTemplate, Conversation

FIRST_TINT = 0xF0000  # the private-use planes 15 and 16, without their last two characters
PLANE = 0x10000 - 2
TINTS = 2 * PLANE
LONG_EDGE = 512  # of contents too many to be tinted whole, at most so much at both ends
# Keys whose values a template reads as names, but for those of a call's arguments.
_NAMES = {"role", "type", "id", "tool_call_id"}
_ARGUMENTS = "arguments"
_PLAIN = {"role", "content"}  # keys of most messages
# What ``strip`` takes away, and what JSON writes otherwise: never tinted.
_NEUTRAL = "".join(c for c in map(chr, range(0x3001)) if c.isspace() or c < " " or c in '"\\\x7f')
_NEUTRAL_CODES = np.unique(np.frombuffer(_NEUTRAL.encode("utf-32-le"), np.uint32))
_IS_NEUTRAL = np.isin(np.arange(_NEUTRAL_CODES[-1] + 1), _NEUTRAL_CODES)


class Place(NamedTuple):
    """A stretch of a content in the rendered text, in characters."""

    begin: int
    end: int
    content: int  # number of the content in the chat
    at: int  # where in the content it begins


class Content(NamedTuple):
    """A text that the user of a template gave."""

    message: int
    role: str
    text: str


def contents_of(chat: Conversation) -> list[Content]:
    """Every text in the messages, in order."""
    found = []
    for number, message in enumerate(chat.messages):
        role, content = str(message.get("role")), message.get("content")
        plain = message.keys() == _PLAIN and isinstance(content, str)
        texts = (content,) if plain else _texts(message)
        found += [Content(number, role, text) for text in texts]
    return found


def _texts(value: Any, names: Collection[str] = _NAMES) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in names:
                yield from _texts(item, () if key == _ARGUMENTS else names)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, names)


def names_of(chat: Conversation) -> Iterator[str]:
    """Every other string of the chat, which is never looked for in what a template writes."""

    def names(value: Any, inside: bool) -> Iterator[str]:
        """``inside``: of arguments, where values are contents and keys are not."""
        if isinstance(value, dict):
            for key, item in value.items():
                if inside:
                    yield str(key)
                elif key in _NAMES and isinstance(item, str):
                    yield item
                yield from names(item, inside or key == _ARGUMENTS)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from names(item, inside)

    for message in chat.messages:
        if message.keys() == _PLAIN and isinstance(message["content"], str):
            yield str(message["role"])
        else:
            yield from names(message, False)
    for extra in (list(chat.tools or ()), dict(chat.options)):
        yield from names(extra, True)
        yield from _texts(extra, ())


def with_texts(chat: Conversation, change: Callable[[str], str]) -> Conversation:
    """The chat with its texts changed, one after another in the order of :func:`contents_of`."""

    def swap(value: Any, names: Collection[str] = _NAMES) -> Any:
        if isinstance(value, str):
            return change(value)
        if isinstance(value, dict):
            return {
                k: v if k in names else swap(v, () if k == _ARGUMENTS else names)
                for k, v in value.items()
            }
        if isinstance(value, list | tuple):
            return [swap(item, names) for item in value]
        return value

    return replace(chat, messages=[swap(message) for message in chat.messages])


def find_places(
    template: ChatTemplate, chat: Conversation, rendered: str, contents: list[Content]
) -> list[Place]:
    """Where the contents stand in ``rendered``, from left to right.

    Raises:
        DataError: if the template does more with a content than to cut, move or repeat it.
    """
    texts = [content.text for content in contents]
    if not any(text.strip() for text in texts):
        return []
    characters = _codes(rendered)
    for kept_strings in ((), sorted(template.tested_strings, key=len, reverse=True)):
        tinted = _Tinted(texts, kept_strings)
        found = tinted.read(template, chat, characters)
        if found is not None:
            runs = _joined(tinted, found, characters)
            return _with_edges(template, chat, tinted, runs, rendered)
    raise DataError(
        "cannot tell where the contents stand in what the chat template writes (it rewrites them)"
    )


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


class _Tinted:
    """The contents' characters, and which of them are tinted."""

    def __init__(self, texts: list[str], kept_strings: tuple[str, ...] | list[str]) -> None:
        self.texts = texts
        self.source = np.concatenate([_codes(text) for text in texts])  # [C] all contents joined
        self.bounds = np.append(0, np.cumsum([len(text) for text in texts]))
        tint = (self.source > _NEUTRAL_CODES[-1]) | ~_IS_NEUTRAL.take(self.source, mode="clip")
        for string in kept_strings:
            for begin, text in zip(self.bounds, texts, strict=False):
                at = text.find(string)
                while at >= 0:
                    tint[begin + at : begin + at + len(string)] = False
                    at = text.find(string, at + 1)
        if np.count_nonzero(tint) > TINTS:
            tint &= self._near_edges()
        self.place = np.flatnonzero(tint)  # [K] of each tint
        number = np.arange(len(self.place), dtype=np.uint32)
        tints = np.where(number < PLANE, FIRST_TINT + number, 0x100000 + number - PLANE)
        shown = self.source.copy()
        shown[self.place] = tints
        pairs = zip(self.bounds[:-1], self.bounds[1:], strict=True)
        self.shown = [
            shown[a:b].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
            for a, b in pairs
        ]

    def _near_edges(self) -> np.ndarray:
        near = np.zeros(len(self.source), bool)
        edge = min(LONG_EDGE, TINTS // (2 * len(self.texts)))
        if not edge:
            raise DataError(f"a chat of {len(self.texts):,} texts is too long to be placed")
        for begin, end in zip(self.bounds[:-1], self.bounds[1:], strict=True):
            near[begin : min(end, begin + edge)] = True
            near[max(begin, end - edge) : end] = True
        return near

    def origin(self, characters: np.ndarray) -> np.ndarray:
        """Place in ``source`` that each character comes from, -1 if it is not tinted."""
        if not len(self.place):
            return np.full(len(characters), -1)
        number = characters.astype(np.int64) - FIRST_TINT
        number[number >= 0x10000] -= 2
        number[(number < 0) | (number >= len(self.place))] = -1
        return np.where(number < 0, -1, self.place[number])

    def dressed(self, chat: Conversation, change: Callable[[str], str] = str) -> Conversation:
        """The chat with tinted contents."""
        shown = iter(self.shown)
        return with_texts(chat, lambda _: change(next(shown)))

    def read(
        self, template: ChatTemplate, chat: Conversation, characters: np.ndarray
    ) -> np.ndarray | None:
        """Origin of each character ``[n]`` of the rendering, None if the tinted one differs."""
        try:
            seen = _codes(template.render(self.dressed(chat))[0])
        except DataError:
            return None
        if len(seen) != len(characters):
            return None
        origin = self.origin(seen)
        seen = np.where(origin < 0, seen, self.source[origin])
        return origin if np.array_equal(seen, characters) else None


def _joined(tinted: _Tinted, origin: np.ndarray, characters: np.ndarray) -> list[Place]:
    """Tinted characters joined with what stands between them, if the content has the same."""
    at = np.flatnonzero(origin >= 0)
    if not len(at):
        return []
    # What each character would be if the content went on as at the last tinted one before it.
    before = np.maximum.accumulate(np.where(origin >= 0, np.arange(len(origin)), 0))
    follows = origin[before] + np.arange(len(origin)) - before
    same = characters == tinted.source.take(follows, mode="clip")
    differing = np.cumsum(~same)
    source = origin[at]
    content = np.searchsorted(tinted.bounds, source, side="right") - 1
    goes_on = (np.diff(at) == np.diff(source)) & (np.diff(content) == 0)
    goes_on &= differing[at[1:]] == differing[at[:-1]]
    breaks = np.flatnonzero(~goes_on)
    first, last = np.append(0, breaks + 1), np.append(breaks, len(at) - 1)
    number = content[first]
    columns = at[first], at[last] + 1, number, source[first] - tinted.bounds[number]
    return [Place(*row) for row in np.stack(columns, axis=1).tolist()]


def _with_edges(
    template: ChatTemplate,
    chat: Conversation,
    tinted: _Tinted,
    runs: list[Place],
    rendered: str,
) -> list[Place]:
    """Runs with the characters without a tint at their contents' ends."""
    edges = [_edges(tinted.texts[run.content], run, rendered) for run in runs]
    before, after = [edge[0] for edge in edges], [edge[1] for edge in edges]
    # Blanks may also be the template's own, in the place of those that it took away.
    if any(before):
        kept = _kept(template, chat, tinted, runs, len(rendered), str.lstrip)
        before = list(map(min, before, kept))
    if any(after):
        kept = _kept(template, chat, tinted, runs, len(rendered), str.rstrip)
        after = list(map(min, after, kept))
    return [
        Place(run.begin - a, run.end + b, run.content, run.at - a)
        for run, a, b in zip(runs, before, after, strict=True)
    ]


def _edges(text: str, run: Place, rendered: str) -> tuple[int, int]:
    """Characters before and after a run that are the same in the content."""
    before, after = 0, 0
    room = min(run.at, run.begin)
    while before < room and text[run.at - before - 1] == rendered[run.begin - before - 1]:
        before += 1
    ends_at = run.at + run.end - run.begin
    room = min(len(text) - ends_at, len(rendered) - run.end)
    while after < room and text[ends_at + after] == rendered[run.end + after]:
        after += 1
    return before, after


def _kept(
    template: ChatTemplate,
    chat: Conversation,
    tinted: _Tinted,
    runs: list[Place],
    length: int,
    strip: Callable[[str, str], str],
) -> list[int]:
    """How many untinted characters the template left at one end of each run.

    Told by the distance to the next run, in a chat whose contents have none at that end.
    """
    bare = tinted.dressed(chat, lambda text: strip(text, _NEUTRAL))
    try:
        origin = tinted.origin(_codes(template.render(bare)[0]))
    except DataError:
        return [0] * len(runs)
    at = np.flatnonzero(origin >= 0)
    ends = np.append(at, len(origin))
    kept: list[int] = []
    repeats: Counter[int] = Counter()
    for k, run in enumerate(runs):
        first = int(tinted.bounds[run.content]) + run.at
        edge = first if strip is str.lstrip else first + run.end - run.begin - 1
        # A template may write a content twice.
        places = np.flatnonzero(origin[at] == edge)[repeats[edge] :]
        repeats[edge] += 1
        if not len(places):
            kept.append(0)
            continue
        i = int(places[0])
        if strip is str.lstrip:
            gap = run.begin - (runs[k - 1].end if k else 0)
            gap -= int(at[i]) - (int(at[i - 1]) + 1 if i else 0)
        else:
            gap = (runs[k + 1].begin if k + 1 < len(runs) else length) - run.end
            gap -= int(ends[i + 1]) - int(at[i]) - 1
        kept.append(max(0, gap))
    return kept
