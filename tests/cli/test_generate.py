"""``tokenkit generate``: prompts and files of them, chats, and what cannot work."""

from __future__ import annotations

import io
import json
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.launch import SPEC_A
from tests.models.tiny import save_tiny
from tokenkit.errors import TokenkitError
from tokenkit.tokenizers import load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate") / "m"
    save_tiny(folder, "llama", vocab_size=1505, max_position_embeddings=256)
    load_tokenizer(SPEC_A).save(folder)
    return folder


def plain(folder, ids: list[int], new: int) -> str:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = model.generate(torch.tensor([ids]), max_new_tokens=new, do_sample=False)
    return AutoTokenizer.from_pretrained(folder).decode(
        rows[0, len(ids) :], skip_special_tokens=True
    )


def test_a_prompt_is_continued(script, folder, capsys):
    script("generate", "--model", folder, "--prompt", "The sea", "--max-new-tokens", 8)
    ids = AutoTokenizer.from_pretrained(folder)("The sea")["input_ids"]
    assert capsys.readouterr().out == plain(folder, ids, 8).rstrip("\ufffd") + "\n"


def test_files_of_prompts(script, folder, tmp_path, capsys):
    turns = [{"role": "user", "content": "Hi"}]
    rows = [{"prompt": "The sea"}, {"text": "Once\nmore"}, {"messages": turns}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfThe sea\r\n\n  \nOnce\n")
    given = ["--model", folder, "--max-new-tokens", 5]
    for name, count in (("p.jsonl", 3), ("p.txt", 2)):
        output = tmp_path / f"{name}.out"
        script("generate", *given, "--prompts", tmp_path / name, "--output", output)
        found = [json.loads(line) for line in output.read_text().splitlines()]
        assert len(found) == count and capsys.readouterr().out.count("--- ") == count
        ids = AutoTokenizer.from_pretrained(folder)("The sea")["input_ids"]
        text = plain(folder, ids, 5)
        assert found[0]["prompt"] == "The sea" and found[0]["text"] == text.rstrip("\ufffd")
        assert found[0]["tokens"] == 5 and found[0]["end"] == "length"
    assert found[1]["prompt"] == "Once"


def test_a_conversation_remembers(script, folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n\nAnd you?\n"))
    script("generate", "--model", folder, "--chat", "--system", "Be kind.", "--max-new-tokens", 4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "system", "content": "Be kind."}]
    expected = ""
    for question in ("Hi", "And you?"):
        turns.append({"role": "user", "content": question})
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        answer = plain(folder, ids, 4).rstrip("\ufffd")
        turns.append({"role": "assistant", "content": answer})
        expected += answer + "\n"
    assert capsys.readouterr().out == expected


def test_what_cannot_work_is_one_line(script, folder, tmp_path):
    bad = {
        "utf8": b"fine\nbro\xffken\n",
        "empty": b"\n \n",
        "empty.jsonl": b'{"prompt": "a"}\n{"prompt": ""}\n',
        "half.jsonl": b'{"prompt": "\\ud800"}\n',
        "shape.jsonl": b"[1]\n",
        "json.jsonl": b"{\n",
        "turns.jsonl": b'{"messages": []}\n',
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "taken").write_text("mine")
    bare = save_tiny(tmp_path / "bare", "llama", vocab_size=1505)
    load_tokenizer(f"{SPEC_A.removesuffix(':source=Llama3')}:source=GPT2").save(bare)
    (bare / "chat_template.jinja").unlink()
    damaged = save_tiny(tmp_path / "damaged", "llama", vocab_size=1505)
    (damaged / "config.json").write_text("{")
    prompt = ["--prompt", "a"]
    cases = [
        (["--prompts", tmp_path / "utf8"], "utf8:2: not valid UTF-8 .byte 4 of it"),
        (["--prompts", tmp_path / "empty"], "no line has text"),
        (["--prompts", tmp_path / "empty.jsonl"], "empty.jsonl:2: the prompt is empty"),
        (["--prompts", tmp_path / "half.jsonl"], "half.jsonl:1: .* not valid UTF-8"),
        (["--prompts", tmp_path / "shape.jsonl"], "not a JSON object with"),
        (["--prompts", tmp_path / "json.jsonl"], "not a JSON object on one line"),
        (["--prompts", tmp_path / "turns.jsonl"], "not a list of turns"),
        (["--prompts", tmp_path / "none"], "cannot be read"),
        (["--prompts", tmp_path / "utf8", *prompt], "give one of them"),
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "a\udcffb"], "--prompt .* is not valid UTF-8"),
        ([], "nothing to go on from"),
        ([*prompt, "--system", "x"], "--system goes with --chat"),
        ([*prompt, "--output", tmp_path / "taken"], "already exists"),
        ([*prompt, "--top-p", "2"], "--top-p 2.0 must be"),
        ([*prompt, "--max-new-tokens", "300"], "more than the 256"),
        ([*prompt, "--device", "nowhere"], "--device 'nowhere' cannot be used"),
        ([*prompt, "--chat", "--model", bare], "has no chat template"),
        ([*prompt, "--model", tmp_path / "missing"], "does not exist"),
        ([*prompt, "--model", damaged], "damaged' cannot be loaded"),
    ]
    for arguments, message in cases:
        with pytest.raises(TokenkitError, match=message) as caught:
            script("generate", "--model", folder, *arguments)
        assert "\n" not in str(caught.value).strip()
    assert (tmp_path / "taken").read_text() == "mine"
