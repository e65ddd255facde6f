"""What a template writes around contents: the same for all chats of one shape, as a rule.

A chat of a shape (its roles, one after another) is written once with words of our own as contents.
What stands around these words is the shape's *frame*. Where a real chat is the frame with its own
contents in it, character by character, their places are known without a second rendering. A chat
that is not (the template looked into its contents) must be placed by tinting. Frames depend on
nothing but the shape, so what is found does not depend on the chats that were seen before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from tokenkit.errors import DataError
from tokenkit.tokenizers.chat.places import Place
from tokenkit.tokenizers.chat.template import ChatTemplate, Conversation

MOST_SHAPES = 4096  # remembered
Shape = tuple[object, ...]


def said_from(
    template: ChatTemplate, chat: Conversation, rendered: str, message: int, begin: int
) -> int:
    """Where an assistant's turn begins: behind what the template opens it with.

    This is what a model is given when it is to say the turn. A template that writes the past
    otherwise than it was, or knows no ``add_generation_prompt``, tells nothing; then the turn
    begins with its contents, and the space before them, which is part of their first token.

    Args:
        begin: of the message's contents in ``rendered``.
    """
    before = replace(chat, messages=chat.messages[:message], open=True)
    try:
        opened = template.render(before)[0]
    except DataError:
        return begin
    first = begin
    if rendered.startswith(opened) and len(opened) <= begin:
        knows = "add_generation_prompt" in template.text_for(chat.tools)
        if knows or rendered[len(opened) : begin].isspace():
            first = len(opened)
    while rendered[first - 1 : first] == " ":
        first -= 1
    return first


def special_in(names: Iterable[object], special: re.Pattern[str] | None) -> str:
    """A special token that one of the names spells, "" if none does."""
    found = (special.search(str(name)) for name in names) if special else ()
    return next((match[0] for match in found if match), "")


@dataclass
class Frame:
    """What surrounds the contents of a shape.

    Attributes:
        literals: template text before, between and behind contents, one more than these.
        order: which content comes where.
        trial, rendered: the chat that it was read off, and what the template wrote of it.
        once: whether no content is written twice.
        special_role: a special token that a role spells, "" if none does.
        openings: characters of an assistant's turn before its contents, by message.
        closings: where, behind its contents, what closes a turn begins and ends, by message.
    """

    literals: list[str]
    order: list[int]
    trial: Conversation
    rendered: str
    once: bool
    special_role: str
    openings: dict[int, int] = field(default_factory=dict)
    closings: dict[int, tuple[int, int] | None] = field(default_factory=dict)


class Frames:
    """The frames of one template, each read off a trial chat when first needed.

    Args:
        special: matches special tokens; None if there are none.
    """

    def __init__(self, template: ChatTemplate, special: re.Pattern[str] | None) -> None:
        self.template, self.special = template, special
        self.known: dict[Shape, Frame | None] = {}

    def fit(self, chat: Conversation, rendered: str) -> tuple[Frame, list[Place]] | None:
        """The chat's frame and where contents stand, from left to right; None if not framed."""
        shape = _shape(chat)
        if shape is None:
            return None
        if shape not in self.known:
            if len(self.known) >= MOST_SHAPES:
                self.known.clear()
            self.known[shape] = self._read(chat)
        frame = self.known[shape]
        if frame is None:
            return None
        places = _fit(frame, [message["content"] for message in chat.messages], rendered)
        return None if places is None else (frame, places)

    def opening(self, frame: Frame, message: int) -> int:
        """Characters of an assistant's turn before its contents."""
        if message not in frame.openings:
            begin = frame.rendered.find(frame.trial.messages[message]["content"])
            first = said_from(self.template, frame.trial, frame.rendered, message, begin)
            frame.openings[message] = begin - first
        return frame.openings[message]

    def _read(self, chat: Conversation) -> Frame | None:
        """The frame, None if the template does anything but put contents into one."""
        words = [f"zq{number}qz" for number in range(len(chat.messages))]
        roles = [message["role"] for message in chat.messages]
        messages = [{"role": r, "content": w} for r, w in zip(roles, words, strict=True)]
        trial = Conversation(messages, open=chat.open)
        try:
            rendered = self.template.render(trial)[0]
        except DataError:
            return None
        pieces = re.split(f"({'|'.join(words)})", rendered)
        literals, order = pieces[::2], [words.index(word) for word in pieces[1::2]]
        # Between two contents, only a mark tells whose blanks are whose.
        if not order or not all(map(str.strip, literals[1:-1])):
            return None
        once = len(order) == len(set(order))
        special = special_in(roles, self.special)
        return Frame(literals, order, trial, rendered, once, special)


def _shape(chat: Conversation) -> Shape | None:
    """What decides the frame; None for chats of more than roles and texts, or without words."""
    if chat.tools or chat.options:
        return None
    shape: list[object] = [chat.open]
    for message in chat.messages:
        content = message.get("content")
        if len(message) != 2 or "role" not in message or not isinstance(content, str):
            return None
        if not content or content.isspace():
            return None
        shape.append(message["role"])
    return tuple(shape)


def _fit(frame: Frame, texts: list[str], rendered: str) -> list[Place] | None:
    """Places of the contents if the frame holds the rendering as a whole."""
    if not rendered.startswith(frame.literals[0]):
        return None
    at = len(frame.literals[0])
    places: list[Place] = []
    for number, literal in zip(frame.order, frame.literals[1:], strict=True):
        last = len(places) + 1 == len(frame.order)
        for offset, text in _versions(texts[number]):
            end = at + len(text)
            if last and end + len(literal) != len(rendered):
                continue
            if rendered.startswith(text, at) and rendered.startswith(literal, end):
                places.append(Place(at, end, number, offset))
                at = end + len(literal)
                break
        else:
            return None
    return places


def _versions(text: str) -> Iterator[tuple[int, str]]:
    """A content as templates write it, whole or trimmed, with what was cut off before it."""
    yield 0, text
    if text[0].isspace() or text[-1].isspace():
        left = text.lstrip()
        before = len(text) - len(left)
        yield before, left.rstrip()
        yield before, left
        yield 0, text.rstrip()
