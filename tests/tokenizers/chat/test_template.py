"""Chats as templates write them, beside transformers' own rendering and ids."""

from __future__ import annotations

from datetime import date

import pytest
from transformers import AutoTokenizer

from tests.tokenizers import templates
from tests.tokenizers.samples import GOLDEN, TEMPLATE_TOKENS, with_template
from tests.tokenizers.templates import CHAT
from tokenkit.errors import DataError, TokenizerError
from tokenkit.tokenizers import ChatTemplate, Conversation, Reading, encode_rows, load_tokenizer

HAND_WRITTEN = [
    "QWEN2", "QWEN3", "LLAMA3", "LLAMA3_1", "GEMMA3", "PHI3", "MISTRAL", "DEEPSEEK", "NEW",
    "PLAIN_WORDS", "GENERATION", "DROPS_THOUGHTS", "MOVES_SYSTEM", "REPEATS", "UPPER", "TOOLS",
]  # fmt: skip
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": "\u00fc"}}}


@pytest.mark.parametrize("base", ["bpe_a", "spm"])
@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_chats_have_the_ids_that_transformers_gives(tmp_path, base: str, name: str) -> None:
    tok = with_template(tmp_path, getattr(templates, name), base, unk_token="<unk>")
    plain = AutoTokenizer.from_pretrained(tmp_path)
    for options in ({}, {"add_generation_prompt": True}, {"tools": [TOOL]}):
        expected = plain.apply_chat_template(CHAT, return_dict=False, **options)
        assert tok.encode_chat(CHAT, **options) == expected
        row = Conversation(
            CHAT, options.get("tools"), open=options.get("add_generation_prompt", False)
        )
        (encoded,) = encode_rows(tok, [row])
        assert encoded.ids.tolist() == expected
        text = plain.apply_chat_template(CHAT, tokenize=False, **options)
        assert encoded.data.decode() == text


def test_options_reach_the_template(tmp_path) -> None:
    template = "{{ 'think' if enable_thinking else 'answer' }}{{ messages[0].content }}"
    tok = with_template(tmp_path, template)
    messages = [{"role": "user", "content": ": x"}]
    row = Conversation(messages, options={"enable_thinking": True})
    assert encode_rows(tok, [row])[0].data == b"think: x"
    assert tok.decode(tok.encode_chat(messages)) == "answer: x"
    assert tok.decode(tok.encode_chat(messages, enable_thinking=True)) == "think: x"


def test_the_day_is_todays_or_the_one_that_is_set(tmp_path) -> None:
    with_template(tmp_path, templates.DATED)
    messages = [{"role": "user", "content": "Hi"}]

    def written(day: str) -> str:
        tok = load_tokenizer(str(tmp_path), date=day)
        return encode_rows(tok, [Conversation(messages)])[0].data.decode()

    head = "<|im_start|>Today: {}<|im_end|><|im_start|>Hi<|im_end|>"
    for day, said in (("2024-07-26", "26 July 2024"), ("2025-01-02", "02 January 2025")):
        assert written(day) == head.format(said)
    assert written("") == head.format(date.today().strftime("%d %B %Y"))


def test_tools_have_a_template_of_their_own() -> None:
    texts = {"default": "D", "tool_use": "T", "rag": "R"}
    template = ChatTemplate(texts, {})
    assert [template.text_for(tools) for tools in (None, [], [TOOL])] == ["D", "T", "T"]
    with pytest.raises(DataError, match=r"several chat templates \(rag, tool_use\) and none"):
        ChatTemplate({"rag": "R", "tool_use": "T"}, {}).text_for(None)


def test_generation_blocks_are_told() -> None:
    text, spans = ChatTemplate({"default": templates.GENERATION}, {}).render(Conversation(CHAT))
    assert [text[a:b] for a, b in spans] == ["It is 4.", "Yes\n\nI am."]
    assert ChatTemplate({"default": templates.QWEN2}, {}).render(Conversation(CHAT))[1] is None


def test_strings_that_a_template_looks_for() -> None:
    found = ChatTemplate({"default": templates.DROPS_THOUGHTS}, {}).tested_strings
    assert {"</think>", "assistant"} <= found and "<|im_start|>" not in found
    assert ChatTemplate({"default": "{% for %}"}, {}).tested_strings == frozenset()


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "Roles must alternate"),
        ("{{ messages[7].content }}", "has no element 7"),
        ("{{ 1 + messages[0].content }}", "unsupported operand"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% if %}", "Expected an expression"),
    ],
)
def test_refusals_come_with_the_templates_reason(tmp_path, template: str, reason: str) -> None:
    tok = with_template(tmp_path, template)
    row = Conversation(CHAT, where="chats.jsonl:5")
    with pytest.raises(
        DataError, match=f"^chats.jsonl:5: the chat template refuses the chat: .*{reason}"
    ):
        encode_rows(tok, [row])
    with pytest.raises(DataError, match="^a chat needs at least one message"):
        tok.encode_chat([])


def test_keys_without_a_value_are_as_if_absent(tmp_path) -> None:
    tok = with_template(tmp_path, templates.TOOLS)
    turn = {"role": "assistant", "content": "a"}
    assert tok.encode_chat([{**turn, "tool_calls": None}]) == tok.encode_chat([turn])


def test_a_spec_that_names_a_target_has_the_familys_template(tmp_path) -> None:
    with_template(tmp_path, templates.MISTRAL)
    turns = CHAT[1:3]
    expected = "<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\nIt is 4.<|im_end|>\n"
    for spec in (f"{tmp_path}:target=Qwen2", f"{GOLDEN}/bpe_b:source=Qwen2"):
        (row,) = encode_rows(load_tokenizer(spec), [Conversation(turns)])
        assert row.data.decode() == expected
    named = load_tokenizer(f"{tmp_path}:source=Mistral")
    assert encode_rows(named, [Conversation(turns)])[0].data.startswith(b"<s>[INST] 2 + 2?")


def test_a_spec_without_a_family_has_the_sources_chats_and_bos(tmp_path) -> None:
    source = with_template(tmp_path, templates.MISTRAL, add_bos_token=True)
    target = load_tokenizer(f"{GOLDEN}/bpe_b", like=source)
    rows = [Conversation(CHAT[1:])]
    ours, theirs = (encode_rows(tok, rows, Reading("assistant"))[0] for tok in (target, source))
    assert ours.data == theirs.data and target.text_bos == source.text_bos == "<s>"
    counted = [
        b"".join(row.data[row.begin[i] : row.end[i]] for i in row.counted.nonzero()[0])
        for row in (ours, theirs)
    ]
    # With the template's space, which is part of the answer's first token
    assert all(text.endswith(b"is 4.</s> Yes\n\nI am.</s>") for text in counted)
    for token in {"<s>", "</s>", "[INST]", "[/INST]"}:
        assert token in target.ids and token in TEMPLATE_TOKENS
    assert "<|im_start|>" not in target.ids, "only what chats and texts need is added"


def test_no_template_no_chat() -> None:
    like = load_tokenizer(f"{GOLDEN}/bpe_b:source=Qwen2")
    like.chat = like.writer = None
    with pytest.raises(TokenizerError, match="has no chat template, so it cannot read conversat"):
        like.encode_chat(CHAT)
