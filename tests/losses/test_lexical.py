"""The lexical loss: which tokens count, against the teacher's own BPE model, and their distance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.launch import TOKENIZERS
from tests.losses.reference import count_of, value_of
from tests.losses.test_baselines import case, vocabulary
from tests.tokenizers.samples import read_json, write_folder
from tests.tokenizers.specs import tokenizer
from tokenkit.config import config_from_dict
from tokenkit.losses.lexical import Lexical
from tokenkit.tokenizers import families, load_tokenizer, special_pairs


def with_vocabularies(*vocabularies):
    return [side._replace(vocabulary=v) for side, v in zip(case(), vocabularies, strict=True)]


def test_lexical_has_nothing_to_learn_from_equal_embeddings():
    tok = tokenizer("bpe_a:source=Llama3")
    loss = Lexical(config_from_dict({}), tok, tok)
    mine, theirs = vocabulary(len(tok), 0), vocabulary(len(tok), 0).requires_grad_(False)
    sides = with_vocabularies(mine, theirs)
    value, _ = value_of(loss, *sides, count_of(loss, *sides))
    value.backward()
    assert value == 0 and not mine.input.grad.any() and not mine.output.grad.any()


def single_tokens(student_tok, teacher_tok) -> dict[str, tuple[int, int]]:
    """Byte-level ordinary tokens that both have and the teacher's BPE model spells as one."""
    model, found = teacher_tok.hf.backend_tokenizer.model, {}
    special = student_tok.special_ids, teacher_tok.special_ids
    roles = special_pairs(teacher_tok, student_tok, len(teacher_tok))
    for token, i in student_tok.ids.items():
        other = teacher_tok.ids.get(token)
        if other is None or i in special[0] or other in special[1]:
            continue
        if roles.get(i, other) != other:  # Qwen's newline ends a header, Llama's does not
            continue
        try:
            student_tok.token_bytes[i].decode()
        except UnicodeDecodeError:  # parts of characters are spelt byte by byte
            if student_tok.byte_lengths[i] > 1:
                continue
        if [piece.value for piece in model.tokenize(token)] == [token]:
            found[token] = (i, other)
    return found


def counted(loss: Lexical) -> set[tuple[int, int]]:
    return set(zip(loss.student_ids.tolist(), loss.teacher_ids.tolist(), strict=True))


def test_lexical_counts_what_the_teacher_spells_as_one_token(tmp_path):
    """Not tokens that its merges never reach, nor both ids of a byte, nor mere namesakes."""

    def with_tokens(name: str, *tokens: str) -> str:
        data = read_json(name)
        for token in tokens:
            data["model"]["vocab"][token] = max(data["model"]["vocab"].values()) + 1
        return str(write_folder(tmp_path / name, data))

    teacher_tok = load_tokenizer(with_tokens("bpe_a", "qzxj") + ":source=Llama3")
    student_tok = load_tokenizer(with_tokens("bpe_b", "qzxj", "<|eot_id|>") + ":source=Qwen2")
    config = config_from_dict({})
    expected = single_tokens(student_tok, teacher_tok)
    loss = Lexical(config, student_tok, teacher_tok)
    both = set(student_tok.ids) & set(teacher_tok.ids)
    assert {"qzxj", "<|eot_id|>"} <= both - set(expected) and len(expected) > 500
    assert counted(loss) == set(expected.values())

    gemma, llama = tokenizer("spm:source=Gemma2"), tokenizer("bpe_a:source=Llama3")
    twins = [i for i, token in enumerate(gemma.tokens) if gemma.ids.get(token) != i]
    assert twins and not {i for i, _ in counted(Lexical(config, gemma, llama))} & set(twins)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("bpe_b:source=Qwen2:target=Llama3", "bpe_a:source=Llama3"),
        ("spm:source=Gemma2", "spm:source=Gemma2"),
        ("bpe_b:source=Qwen2", "bpe_a:source=GPT2"),
    ],
)
def test_lexical_counts_special_tokens_whose_roles_agree(student, teacher):
    student_tok, teacher_tok = tokenizer(student), tokenizer(teacher)
    eos = student_tok.family.replacements[families.EOS][0]
    pair = (student_tok.ids[eos], teacher_tok.ids[eos])
    assert pair in counted(Lexical(config_from_dict({}), student_tok, teacher_tok))


def test_lexical_does_not_count_special_tokens_of_another_role(monkeypatch):
    """One family's beginning of a text is another's end of a turn."""
    llama = families.FAMILIES["Llama3"]
    swapped = {families.BOS: ("<|eot_id|>",), families.EOT: ("<|begin_of_text|>",),
               families.EOS: ("<|begin_of_text|>",)}  # fmt: skip
    other = replace(llama, name="Other", replacements={**llama.replacements, **swapped})
    monkeypatch.setitem(families.FAMILIES, "Other", other)
    toks = [load_tokenizer(f"{TOKENIZERS}/bpe_a:source={name}") for name in ("Other", "Llama3")]
    students = {i for i, _ in counted(Lexical(config_from_dict({}), *toks))}
    agree = ("<|start_header_id|>", "<|end_header_id|>", "<|end_of_text|>")
    assert {toks[0].ids[token] for token in agree} <= students
    assert not {toks[0].ids[token] for token in ("<|eot_id|>", "<|begin_of_text|>")} & students


def test_lexical_against_its_definition():
    teacher_tok, student_tok = tokenizer("bpe_a:source=Llama3"), tokenizer("bpe_b:source=Qwen2")
    loss = Lexical(config_from_dict({}), student_tok, teacher_tok)
    mine, theirs = vocabulary(len(student_tok), 0), vocabulary(len(teacher_tok), 1)
    sides = with_vocabularies(mine, theirs.requires_grad_(False))
    value, _ = value_of(loss, *sides, count_of(loss, *sides))
    shared = single_tokens(student_tok, teacher_tok)
    expected = []
    for a, b in ((mine.input, theirs.input), (mine.output, theirs.output)):
        rows = [(a[student_tok.ids[t]], b[teacher_tok.ids[t]]) for t in shared]
        squares = torch.stack([(x - y).square().sum() for x, y in rows]).mean()
        expected.append(squares / torch.stack([y.norm() for _, y in rows]).mean())
    torch.testing.assert_close(value, sum(expected) / 2)
    value.backward()
    assert mine.input.grad.abs().sum() > 0
