"""A chat as a tokenizer's template writes it, with what stands where in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from os.path import commonprefix
from typing import NamedTuple

from tokenkit.errors import DataError
from tokenkit.log import logger
from tokenkit.tokenizers.chat.frames import Frames, said_from, special_in
from tokenkit.tokenizers.chat.places import Content, Place, contents_of, find_places, names_of
from tokenkit.tokenizers.chat.template import ChatTemplate, Conversation, Spans

# Contents of a trial chat; no template and no tokenizer has these words.
_TRIAL = ("zqaskqz", "zqreplyqz", "zqaskagainqz", "zqreplyagainqz")


class Part(NamedTuple):
    """A stretch of a written chat or text that two tokenizers' versions of it may share.

    Attributes:
        kind: "content" (the same characters on both sides) or "unit" (something that both sides
            may write differently: the end of a turn, BOS).
        key: which content or unit it is.
        at: characters of the content before it.
        begin, end: in the written text, in characters.
    """

    kind: str
    key: object
    at: int
    begin: int
    end: int


def _called(call: object) -> str:
    """The name of the function that a tool call calls."""
    call = call.get("function", call) if isinstance(call, dict) else {}
    name = call.get("name") if isinstance(call, dict) else None
    return name if isinstance(name, str) else ""


class ChatWriter:
    """Writes chats by a template; knows how the template ends turns.

    Args:
        special_tokens: of the tokenizer that will read what is written.
    """

    def __init__(self, template: ChatTemplate, special_tokens: Iterable[str]) -> None:
        self.template = template
        names = sorted(filter(None, special_tokens), key=len, reverse=True)
        self._said_dropped = False
        self.special = re.compile("|".join(map(re.escape, names))) if names else None
        self.frames = Frames(template, self.special)

    def look_for_calls(self, chat: Conversation, text: str) -> None:
        """Say once that the template drops calls of tools, which then teach nothing."""
        if self._said_dropped:
            return
        calls = [call for message in chat.messages for call in message.get("tool_calls") or ()]
        names = [_called(call) for call in calls]
        dropped = [name for name in names if name and name not in text]
        if dropped:
            self._said_dropped = True
            logger.warning(
                f"{chat.where or 'a chat'}: the chat template of '{self.template.name}' writes no "
                f"tool_calls, so the call of '{dropped[0]}' and others like it are not read"
            )

    def write(self, chat: Conversation) -> WrittenChat:
        """Raises DataError if the template refuses the chat."""
        return WrittenChat(self, chat)

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """What may close an assistant's turn, ending with a special token; read off a trial chat.

        Where all turns close alike, one string. A template that closes the last turn otherwise
        than the others has two, one that closes none has none.
        """
        roles = ("user", "assistant", "user", "assistant")
        turns = [{"role": r, "content": c} for r, c in zip(roles, _TRIAL, strict=True)]
        listed = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in turns]
        for messages in (turns, listed):
            try:
                rendered = self.template.render(Conversation(messages))[0]
            except DataError:
                continue
            if all(rendered.count(trial) == 1 for trial in _TRIAL):
                break
        else:
            return ()
        last = rendered.split(_TRIAL[3])[1].lstrip()
        middle, asked = (
            rendered.split(_TRIAL[k])[1].split(_TRIAL[k + 1])[0].lstrip() for k in (1, 2)
        )
        if not last or self.special is None:
            return ()
        common = self._to_last_special(commonprefix([last, middle]))
        # Some templates open an answer behind the last turn, too: what is common has its header.
        if common and last != asked:
            return (common,)
        firsts = [self.special.match(text) for text in (last, middle)]
        return tuple(dict.fromkeys(found[0] for found in firsts if found))

    def _to_last_special(self, text: str) -> str:
        """The text up to its last special token; "" if it does not begin with one."""
        if not self.special.match(text):
            return ""
        end = max(found.end() for found in self.special.finditer(text))
        return text[:end]


class WrittenChat:
    """What a template writes of a chat.

    Attributes:
        text: the template's output.
    """

    def __init__(self, writer: ChatWriter, chat: Conversation) -> None:
        self.writer, self.chat = writer, chat
        self.text, self.spans = writer.template.render(chat)
        writer.look_for_calls(chat, self.text)
        self._framed = writer.frames.fit(chat, self.text)

    @cached_property
    def contents(self) -> list[Content]:
        return contents_of(self.chat)

    @cached_property
    def places(self) -> list[Place]:
        """Where the contents stand. Raises DataError if that cannot be told."""
        if self._framed is not None:
            return self._framed[1]
        return find_places(self.writer.template, self.chat, self.text, self.contents)

    @property
    def _once(self) -> bool:
        """Whether the frame knows everything between the contents: the common case, quickly."""
        return self._framed is not None and self._framed[0].once

    @property
    def special_name(self) -> str:
        """A special token that is spelt where no content is (in a role, say), "" if none is."""
        if self._framed is None:
            return special_in(names_of(self.chat), self.writer.special)
        return self._framed[0].special_role

    @cached_property
    def spelt(self) -> Spans:
        """Character ranges of special tokens that contents spell out."""
        special = self.writer.special
        if self._framed is None:
            texts = [content.text for content in self.contents]
        else:
            texts = [message["content"] for message in self.chat.messages]
        if special is None or not special.search("".join(texts)):
            return []
        joined: Spans = []  # a token may lie across contents that touch
        for place in self.places:
            if joined and joined[-1][1] == place.begin:
                joined[-1] = (joined[-1][0], place.end)
            else:
                joined.append((place.begin, place.end))
        return [
            (begin + found.start(), begin + found.end())
            for begin, end in joined
            for found in special.finditer(self.text[begin:end])
        ]

    @cached_property
    def turn_ends(self) -> dict[int, tuple[int, int]]:
        """Message number → character range of what closes its turn, special tokens included."""
        known = self._framed[0].closings if self._once else {}
        found: dict[int, tuple[int, int]] = {}
        for message, (_, end), limit in self._turns:
            if message not in known:
                known[message] = self._closing(message, self.text[end:limit])
            if closing := known[message]:
                found[message] = (end + closing[0], end + closing[1])
        return found

    def _closing(self, message: int, gap: str) -> tuple[int, int] | None:
        """What closes a turn in the text between its contents and the next message's."""
        blanks = len(gap) - len(gap.lstrip())
        for closing in self.writer.ends:
            at = gap.find(closing)
            # An assistant's turn may end with more than its contents (of a tool call, say).
            if at >= 0 and (at <= blanks or self._role(message) == "assistant"):
                return at, at + len(closing)
        # A call may be closed by a token of its own.
        call = self.chat.messages[message].get("tool_calls") and self.writer.ends
        closed = self.writer.special.search(gap) if call else None
        return closed.span() if closed else None

    def _said_from(self, message: int, begin: int) -> int:
        """Where an assistant's turn begins; see :func:`said_from`."""
        if self._framed is not None:
            return begin - self.writer.frames.opening(self._framed[0], message)
        return said_from(self.writer.template, self.chat, self.text, message, begin)

    def _role(self, message: int) -> str:
        return str(self.chat.messages[message].get("role"))

    @cached_property
    def _turns(self) -> list[tuple[int, tuple[int, int], int]]:
        """Messages, the range of their contents, and where the next message's begin.

        What a template repeats of a message later (a called tool's name) is not its turn's.
        """
        if self._once:
            begins = [place.begin for place in self.places[1:]]
            pairs = zip(self.places, [*begins, len(self.text)], strict=True)
            return [(place.content, (place.begin, place.end), limit) for place, limit in pairs]
        turns: list[list] = []
        known: set[tuple[int, int]] = set()
        for place in self.places:
            if (place.content, place.at) in known:
                continue
            known.add((place.content, place.at))
            message = self.contents[place.content].message
            if turns and turns[-1][0] == message:
                turns[-1][1] = (turns[-1][1][0], place.end)
            else:
                turns.append([message, (place.begin, place.end)])
        limits = [*(found[0] for _, found in turns[1:]), len(self.text)]
        return [(*turn, limit) for turn, limit in zip(turns, limits, strict=False)]

    @cached_property
    def parts(self) -> list[Part]:
        """Contents and ends of turns, from left to right."""
        ends = self.turn_ends
        if self._once:  # a turn ends behind its contents and before the next ones
            ordered: list[Part] = []
            for place in self.places:
                ordered.append(Part("content", place.content, place.at, place.begin, place.end))
                if place.content in ends:
                    ordered.append(Part("unit", ("end", place.content), 0, *ends[place.content]))
            return ordered
        found = [Part("content", p.content, p.at, p.begin, p.end) for p in self.places]
        found += [Part("unit", ("end", m), 0, a, b) for m, (a, b) in ends.items()]
        return sorted(found, key=lambda part: part.begin)

    def counted(self, loss_on: str) -> Spans:
        """Character ranges that the loss counts.

        ``all`` is everything; ``assistant`` what the assistant says with what closes its turns
        (the template's own ``{% generation %}`` blocks, where it has them); ``completion`` the
        last of these.
        """
        if loss_on == "all":
            ranges = [(0, len(self.text))]
        elif self.spans is not None:
            ranges = list(self.spans)
        else:
            ranges = [
                (self._said_from(message, begin), self.turn_ends.get(message, (0, end))[1])
                for message, (begin, end), _ in self._turns
                if self._role(message) in ("assistant", "model")
            ]
        if loss_on == "completion":
            ranges = ranges[-1:]
        return without(ranges, self.spelt)


def without(ranges: Spans, holes: Sequence[tuple[int, int]]) -> Spans:
    """Ranges with holes cut out of them; both sorted."""
    for begin, end in holes:
        cut = []
        for a, b in ranges:
            if begin >= b or end <= a:
                cut.append((a, b))
                continue
            cut += [part for part in ((a, begin), (end, b)) if part[0] < part[1]]
        ranges = cut
    return ranges
