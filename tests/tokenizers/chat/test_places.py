"""Where contents stand in what templates of every manner write."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers import templates
from tests.tokenizers.templates import CHAT
from tokenkit.errors import DataError
from tokenkit.tokenizers import ChatTemplate, Conversation
from tokenkit.tokenizers.chat.places import contents_of, find_places, with_texts

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
USER, ANSWER = "user", "assistant"


def turns(*contents, roles=(USER, ANSWER)):
    return [{"role": roles[k % 2], "content": c} for k, c in enumerate(contents)]


def places(template: str, messages, **options):
    """What is written, and (content's number, its characters there, where) of each place."""
    jinja = ChatTemplate({"default": template}, TOKENS)
    chat = Conversation(messages, **options)
    rendered, contents = jinja.render(chat)[0], contents_of(chat)
    found = find_places(jinja, chat, rendered, contents)
    ends = [0]
    for place in found:
        shown = rendered[place.begin : place.end]
        assert shown == contents[place.content].text[place.at : place.at + len(shown)]
        assert ends[-1] <= place.begin < place.end
        ends.append(place.end)
    return rendered, [(p.content, rendered[p.begin : p.end], p.begin) for p in found]


def shown(template: str, messages, **options):
    return [(content, text) for content, text, _ in places(template, messages, **options)[1]]


@pytest.mark.parametrize("name", ["QWEN2", "LLAMA3", "GEMMA3", "MISTRAL", "NEW", "PLAIN_WORDS"])
def test_places_of_distinct_contents_are_where_a_search_finds_them(name: str) -> None:
    messages = CHAT if name != "MISTRAL" else CHAT[1:]
    rendered, found = places(getattr(templates, name), messages)
    expected = [(k, m["content"], rendered.index(m["content"])) for k, m in enumerate(messages)]
    assert found == expected


def test_contents_that_the_template_has_words_of_are_told_apart() -> None:
    messages = turns("user", "assistant\nmodel", "You are helpful.", "user")
    rendered, found = places(templates.QWEN2, messages)
    head = "<|im_start|>system\nYou are helpful.<|im_end|>\n"
    assert found[0] == (0, "user", len(head) + len("<|im_start|>user\n"))
    assert [(k, text) for k, text, _ in found] == list(enumerate(m["content"] for m in messages))
    assert rendered.count("You are helpful.") == 2 and found[2][2] == rendered.rindex("You are")


def test_trimmed_contents() -> None:
    messages = turns("  two spaces", "\n\nlines\n\n", "\ttab \n", " ok ")
    expected = ["two spaces", "lines", "tab", "ok"]
    assert shown(templates.LLAMA3, messages) == list(enumerate(expected))
    kept = shown(templates.QWEN3, messages)
    assert kept == [(k, message["content"]) for k, message in enumerate(messages)]


def test_blanks_of_the_template_are_not_the_contents() -> None:
    """The content's newline is trimmed, and the template writes one in its place."""
    template = "{% for m in messages %}{{ '\\n' + m.content | trim + '\\n' }}{% endfor %}"
    assert shown(template, turns("\na\n", "\nb\n")) == [(0, "a"), (1, "b")]


def test_thoughts_that_are_dropped() -> None:
    first, last = "<think>\nhm\n</think>\n\nFour.", "<think>\nho\n</think>\n\nFive."
    messages = turns("2+2?", first, "2+3?", last)
    found = shown(templates.DROPS_THOUGHTS, messages)
    assert found == [(0, "2+2?"), (1, "Four."), (2, "2+3?"), (3, last)]
    _, cut, _ = places(templates.DROPS_THOUGHTS, messages)[1][1]
    assert cut == "Four."


def test_a_system_prompt_that_is_moved() -> None:
    rendered, found = places(templates.MOVES_SYSTEM, CHAT[:4])
    assert [content for content, *_ in found] == [1, 2, 0, 3]
    assert rendered.endswith("[INST] Be brief.\n\nSure?[/INST]")


def test_a_content_that_is_repeated() -> None:
    found = shown(templates.REPEATS, turns("why?", "so."))
    assert found == [(0, "why?"), (1, "so."), (1, "so.")]
    # The same text twice is two contents.
    assert shown(templates.QWEN3, turns("same", "same", "same")) == [
        (0, "same"),
        (1, "same"),
        (2, "same"),
    ]


def test_a_content_that_is_rewritten_is_refused() -> None:
    with pytest.raises(DataError, match=r"cannot tell where the contents stand.*rewrites them"):
        places(templates.UPPER, turns("hello"))
    assert shown(templates.UPPER, turns("1 + 1")) == [(0, "1 + 1")], "nothing to rewrite"


def test_arguments_of_tool_calls_are_contents() -> None:
    arguments = {"city": "Z\u00fcrich", "days": 3}
    call = {"function": {"name": "weather", "arguments": arguments}}
    messages = [*turns("Weather?"), {"role": ANSWER, "content": "", "tool_calls": [call]}]
    found = shown(templates.TOOLS, messages)
    assert found == [(0, "Weather?"), (2, "weather"), (3, "Z\u00fcrich")]
    tools = [{"type": "function", "function": {"name": "weather"}}]
    assert shown(templates.TOOLS, messages, tools=tools) == found, "tools are the template's own"
    quoted = turns("a") + [{"role": ANSWER, "tool_calls": [
        {"function": {"name": "f", "arguments": {"text": 'say "x"\nnow'}}}]}]  # fmt: skip
    written, found = places(templates.TOOLS, quoted)
    assert 'say \\"x\\"\\nnow' in written
    assert [(k, text) for k, text, _ in found] == [
        (0, "a"),
        (1, "f"),
        (2, "say"),
        (2, "x"),
        (2, "now"),
    ]


def test_contents_in_lists_of_parts() -> None:
    parts = [{"type": "text", "text": "Look"}, {"type": "image"}, {"type": "text", "text": "there"}]
    messages = [{"role": USER, "content": parts}]
    assert [c.text for c in contents_of(Conversation(messages))] == ["Look", "there"]
    rendered, found = places(templates.LISTS, messages)
    assert "Look<img>there" in rendered
    assert [(k, text) for k, text, _ in found] == [(0, "Look"), (1, "there")]


def test_contents_too_many_to_be_marked_whole() -> None:
    messages = turns("a" * 90_000, "b" * 60_000)
    assert shown(templates.QWEN3, messages) == [(0, "a" * 90_000), (1, "b" * 60_000)]


# Quotes alone have no place: see below.
BITS = ["<|im_end|>", "</think>", "\n", " ", "a", "\u00e9", "\U0010fffd", "\uf0000", "user", 'a"b']


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(BITS), max_size=5).map("".join), min_size=1, max_size=4))
@pytest.mark.parametrize("name", ["QWEN2", "QWEN3", "LLAMA3", "NEW"])
def test_any_contents_of_templates_that_write_all_or_trim(name: str, texts: list[str]) -> None:
    """Against the template's own output, cut apart by hand at lengths that are known."""
    template = getattr(templates, name)
    rendered, found = places(template, turns(*texts))
    expected, at = [], 0
    for k, text in enumerate(texts):
        kept = text.strip() if name == "LLAMA3" else text
        empty = places(template, turns(*texts[:k], "\u2603"))[0]
        begin = empty.rindex("\u2603") if name != "QWEN3" else None
        if begin is None:  # the last answer's thought shifts what follows
            begin = rendered.index(kept, at) if kept else at
        at = begin + len(kept)
        if kept.strip():
            expected.append((k, kept))
    assert [(k, text) for k, text, _ in found] == expected


def test_contents_of_nothing_that_could_be_marked_have_no_place() -> None:
    assert shown(templates.QWEN3, turns('"', "\n\\")) == []
    assert shown(templates.QWEN3, turns("a", '"')) == [(0, "a")]
    assert shown(templates.UPPER, turns("")) == []


def test_with_texts_changes_contents_and_nothing_else() -> None:
    call = {"id": "x1", "type": "function", "function": {"name": "f", "arguments": {"a": "b"}}}
    chat = Conversation(
        [{"role": "tool", "tool_call_id": "q", "content": "c"}, {"role": "u", "tool_calls": [call]}]
    )
    changed = with_texts(chat, str.upper)
    expected = {**call, "function": {"name": "F", "arguments": {"a": "B"}}}
    assert changed.messages == [
        {"role": "tool", "tool_call_id": "q", "content": "C"},
        {"role": "u", "tool_calls": [expected]},
    ]
