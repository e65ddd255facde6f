"""A chat template with all that its output depends on, rendered as ``transformers`` does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any

from jinja2 import Environment, TemplateError, TemplateSyntaxError, nodes
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from tokenkit.errors import DataError, TokenizerError
from tokenkit.tokenizers.chat.limit import time_limit

Message = Mapping[str, Any]
Spans = list[tuple[int, int]]

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Conversation:
    """A chat before any template has seen it.

    Attributes:
        messages: mappings with ``role`` and whatever templates read (``content`` as text or as a
            list of parts, ``reasoning_content``, ``tool_calls`` …).
        tools: JSON schemas of tools, for templates that know them.
        options: further variables of the template, such as ``enable_thinking``.
        open: end with the header of an assistant's turn instead of a message.
        where: file and line, for errors.
        key: where it stands in the data, as a document's.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    open: bool = False
    where: str = field(default="", compare=False, kw_only=True)
    key: int = field(default=-1, compare=False, kw_only=True)


@dataclass(frozen=True)
class ChatTemplate:
    """Jinja text, the special tokens it may name, and the day it takes today for.

    Attributes:
        texts: template by name: "default", and perhaps "tool_use" for chats with tools.
        tokens: ``bos_token``, ``eos_token`` … as the template sees them.
        date: ISO date that ``strftime_now`` gives; "" is today's.
        name: of the tokenizer, for errors.
    """

    texts: Mapping[str, str]
    tokens: Mapping[str, Any]
    date: str = ""
    name: str = field(default="", compare=False)

    @classmethod
    def of(cls, hf: PreTrainedTokenizerBase, date: str = "") -> ChatTemplate | None:
        """The template of a tokenizer; None if it has none.

        Raises:
            TokenizerError: if it is no text.
        """
        if not hf.chat_template:
            return None
        found = hf.chat_template
        texts = dict(found) if isinstance(found, Mapping) else {"default": found}
        for text in texts.values():
            if not isinstance(text, str):
                raise TokenizerError(
                    f"tokenizer '{hf.name_or_path}': its chat template is {type(text).__name__}, "
                    "not a text"
                )
        return cls(texts, dict(hf.special_tokens_map), date, hf.name_or_path)

    def text_for(self, tools: object = None) -> str:
        """The template that a chat with or without tools is written by.

        Raises:
            DataError: if there are several templates and none is the default.
        """
        if tools is not None and "tool_use" in self.texts:
            return self.texts["tool_use"]
        if "default" not in self.texts:
            raise DataError(
                f"the tokenizer has several chat templates ({', '.join(sorted(self.texts))}) and "
                "none is called 'default'"
            )
        return self.texts["default"]

    @cached_property
    def tested_strings(self) -> frozenset[str]:
        """Strings that the templates look for in contents: operands, and arguments of calls."""
        found: set[str] = set()
        for text in self.texts.values():
            for node in _parse(text).find_all(
                (nodes.Compare, nodes.Call, nodes.Filter, nodes.Test)
            ):
                found |= {c.value for c in node.find_all(nodes.Const) if isinstance(c.value, str)}
        return frozenset(string for string in found if string.strip())

    def render(self, chat: Conversation) -> tuple[str, Spans | None]:
        """What the template writes.

        Returns:
            The text, and the character ranges of its ``{% generation %}`` blocks (None if the
            template has no such block).

        Raises:
            DataError: if the template refuses the chat, with its own reason.
            TokenizerError: if it runs for seconds.
        """
        if not chat.messages:
            raise DataError("a chat needs at least one message")
        text = self._dated(self.text_for(chat.tools))
        marks = bool(_GENERATION.search(text))
        # Many templates fail on an explicit None where they handle a missing key.
        messages = [{k: v for k, v in m.items() if v is not None} for m in chat.messages]
        try:
            with time_limit():
                rendered, spans = chat_template_utils.render_jinja_template(
                    conversations=[messages],
                    tools=None if chat.tools is None else list(chat.tools),
                    chat_template=text,
                    return_assistant_tokens_mask=marks,
                    add_generation_prompt=chat.open,
                    **{**self.tokens, **chat.options},
                )
        except TokenizerError as error:
            raise TokenizerError(f"tokenizer '{self.name}': {error}") from error
        except (
            TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
            RecursionError,
            MemoryError,
        ) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(f"the chat template refuses the chat: {reason}") from error
        return rendered[0], list(spans[0]) if marks else None

    def _dated(self, text: str) -> str:
        """The template, with its ``strftime_now`` fixed if a date is set.

        ``transformers`` keeps compiled templates by their text and hands ``strftime_now`` to them
        as a global, so a text of our own is compiled once and its global replaced.
        """
        if not self.date or "strftime_now" not in text:
            return text
        # A comment swallows the newline behind it (trim_blocks), so the rest is as it was.
        text = f"{{# {self.date} #}}\n{text}"
        compiled = chat_template_utils._compile_jinja_template(text)
        compiled.globals["strftime_now"] = date.fromisoformat(self.date).strftime
        return text


def _parse(text: str) -> nodes.Template:
    """Syntax tree of a template; an empty one if it cannot be parsed (rendering will say so)."""
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    # Our environment need not know the tag that marks what the assistant generates.
    text = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", text)
    try:
        return environment.parse(text)
    except TemplateSyntaxError:
        return nodes.Template([])
