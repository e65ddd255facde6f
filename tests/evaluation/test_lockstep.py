"""Ensembles on tasks: a model with itself is the model, two are what their distributions say."""

from __future__ import annotations

import pytest
import torch

from tests.evaluation.conftest import TASKS, save_model
from tests.evaluation.test_lm_eval_model import DOCUMENTS, FLOAT, asked, flat, run
from tests.inference.test_ensemble import LLAMA, part
from tests.tokenizers.real_pairs import MODEL, real_tokenizer
from tokenkit.errors import DataError
from tokenkit.evaluation.lm_eval_model import TokenkitLM
from tokenkit.evaluation.lockstep import LockstepLM
from tokenkit.inference.ensemble import COMBINATIONS, Ensemble

CHAT = "{% for m in messages %}<|start_header_id|>{{ m.role }}: {{ m.content }}<|eot_id|>\n{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"  # noqa: E501
OTHER_CHAT = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}[model] "


def check_itself(path, tasks, combine, **options) -> None:
    alone = TokenkitLM(str(path), batch_size=4, **FLOAT)
    twice = LockstepLM(Ensemble([part(path, 2.0), part(path, 1.0)], combine), batch_size=4)
    wanted = run(alone, tasks, TASKS, **options)
    found = run(twice, tasks, TASKS, **options)
    assert found["tokenkit_continue"] == wanted["tokenkit_continue"]
    for task in TASKS:
        assert flat(found[task]) == pytest.approx(flat(wanted[task]), abs=1e-3, rel=1e-5), task


@pytest.mark.parametrize(
    ("family", "combine"),
    [*(("llama", combine) for combine in COMBINATIONS), ("gpt2", "mean_prob"),
     ("gemma2", "mean_logits")],
)  # fmt: skip
def test_a_model_with_itself_is_the_model(family, combine, folders, offline_tasks):
    check_itself(folders[family], offline_tasks, combine, num_fewshot=1)


@pytest.mark.real
@pytest.mark.parametrize("options", [{}, {"apply_chat_template": True}])
def test_a_real_model_with_itself_is_the_model(options, offline_tasks):
    check_itself(real_tokenizer(MODEL), offline_tasks, "mean_prob", limit=2, **options)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    root = tmp_path_factory.mktemp("two")
    return (
        part(save_model(root / "llama", "llama", LLAMA), 1.0),
        part(save_model(root / "gemma", "gemma2", f"{LLAMA}:target=Qwen2", seed=3), 3.0),
    )


@torch.no_grad()
def logprobs(model, before, ids):
    """``[n, V]`` at each of ``ids``."""
    logits = model(torch.tensor([[*before, *ids]])).logits[0].log_softmax(-1)
    return logits[len(before) - 1 : len(before) + len(ids) - 1]


def expected(two, contexts, text) -> float:
    """Log-likelihood under 0.25 p₁ + 0.75 p₂, by full distributions; each reads its own context."""
    (_, first, _, pivot, _), (_, second, _, other, _) = two
    total = 0.0
    ours, theirs = pivot.encode_text(text), other.encode_text(text)
    assert [pivot.tokens[i] for i in ours] == [other.tokens[i] for i in theirs]
    for a, i, b, j in zip(
        logprobs(first, contexts[0], ours), ours, logprobs(second, contexts[1], theirs), theirs,
        strict=True,
    ):  # fmt: skip
        total += float((0.25 * a[i].exp() + 0.75 * b[j].exp()).log())
    return total


def test_two_models_equal_their_full_distributions(two):
    lm = LockstepLM(Ensemble(list(two), "mean_prob"), batch_size=2)
    pivot, other = two[0][3], two[1][3]
    pairs = [("say", " the one"), ("def f(x):\n", "    return x"), ("", "the")]
    requests = [asked(*pair) for pair in pairs]
    found = lm.loglikelihood(requests, disable_tqdm=True)
    for (context, continuation), (logprob, _) in zip(pairs, found, strict=True):
        bare = context.rstrip()
        moved = context[len(bare) :] + continuation
        contexts = [pivot.bos_id, *pivot.encode_text(bare)], other.encode_text(bare)
        contexts = contexts if bare else ([pivot.bos_id], [other.eos_id])
        assert logprob == pytest.approx(expected(two, contexts, moved), abs=1e-4)
    (found,) = lm.loglikelihood_rolling([asked(DOCUMENTS[1])], disable_tqdm=True)
    wanted = expected(two, ([pivot.bos_id], [other.eos_id]), DOCUMENTS[1])
    assert found == pytest.approx(wanted, abs=1e-3)


def test_mined_pivot_equals_probabilities_moved_one_by_one(two, tmp_path):
    other = part(save_model(tmp_path / "m", "llama", "bpe_b:source=Qwen2", seed=5), 1.0)
    lm = LockstepLM(Ensemble([two[0], other], "mined_pivot"), batch_size=2)
    (_, first, _, pivot, _), (_, second, _, theirs, _) = two[0], other
    (found,) = lm.loglikelihood([asked("say", " the one")], disable_tqdm=True)
    ids, mined = pivot.encode_text(" the one"), lm.ensemble.members[1].map
    ours = logprobs(first, [pivot.bos_id, *pivot.encode_text("say")], ids).exp()
    read = [int(mined.reads[i]) for i in ids]
    given = logprobs(second, theirs.encode_text("say"), read).exp()
    total = 0.0
    for place, token in enumerate(ids):
        moved = sum(given[place, i] for i, to in enumerate(mined.columns.tolist()) if to == token)
        total += float((0.5 * ours[place, token] + 0.5 * moved).log())
    assert found[0] == pytest.approx(total, abs=1e-4)


def test_each_model_reads_a_chat_as_its_own_template_writes_it(two):
    (*_, pivot, _), (*_, other, _) = two
    two[0][2].chat_template, two[1][2].chat_template = CHAT, OTHER_CHAT
    lm = LockstepLM(Ensemble(list(two), "mean_prob"), batch_size=2)
    text = lm.apply_chat_template([{"role": "user", "content": "say the"}])
    assert text.endswith("assistant:\n")
    (found,) = lm.loglikelihood([asked(text, "one")], disable_tqdm=True)
    first = two[0][2].encode(text.rstrip())
    second = other.encode_text("[user] say the [model]")
    assert found[0] == pytest.approx(expected(two, (first, second), "\none"), abs=1e-4)
    generated_from = lm._contexts(text, lm.tok_encode(text), scored=False)
    assert generated_from == [other.encode_text("[user] say the [model] ")]


def test_a_token_that_one_model_lacks_is_named(two):
    lm = LockstepLM(Ensemble(list(two), "mean_prob"), batch_size=2)
    lacking = int((lm.ensemble.members[1].map.reads[: len(two[0][3])] < 0).nonzero()[0])
    token = two[0][3].tokens[lacking]
    with pytest.raises(DataError, match="has no token"):
        lm.loglikelihood([asked("say", token)], disable_tqdm=True)
