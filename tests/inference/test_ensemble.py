"""Maps of tokens and combinations, by hand; lockstep generation against plain loops."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.evaluation.conftest import save_model
from tests.tokenizers.specs import tokenizer
from tokenkit.errors import TokenizerError
from tokenkit.inference.ensemble import Ensemble, Lockstep
from tokenkit.inference.token_maps import TokenMap, mined_map, shared_map

LLAMA, QWEN, GPT2 = "bpe_a:source=Llama3", "bpe_b:source=Qwen2", "bpe_a:source=GPT2"


def test_a_model_maps_to_itself():
    for spec in (LLAMA, "spm:source=Gemma2"):
        tok = tokenizer(spec)
        found = shared_map(tok, tok)
        named = torch.tensor([i for i, token in enumerate(tok.tokens) if token])
        assert (found.reads[named] == named).all() and (found.columns[named] == named).all()


def test_special_tokens_meet_by_role():
    llama, qwen = tokenizer("bpe_a:source=Llama3"), tokenizer("bpe_a:source=Llama3:target=Qwen2")
    found = shared_map(llama, qwen)
    turn = llama.ids["<|eot_id|>"]
    assert qwen.tokens[found.reads[turn]] == "<|im_end|>" == qwen.tokens[found.columns[turn]]
    word = llama.ids["Ġthe"]
    assert qwen.tokens[found.columns[word]] == "Ġthe"
    used = found.columns[found.columns >= 0].tolist()
    assert len(set(used)) == len(used)  # no probability counts twice


def test_other_regular_tokens_are_refused_with_an_example():
    message = r"\d+ of '.*bpe_a.*' are not in '.*bpe_b.*', such as 'Ġ?\S+'; transfer"
    with pytest.raises(TokenizerError, match=message):
        shared_map(tokenizer(LLAMA), tokenizer(QWEN))


def test_probabilities_move_as_a_map_says():
    logprobs = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    moved = TokenMap(torch.zeros(3, dtype=int), torch.tensor([2, 0, 2, -1]), moves=True)
    torch.testing.assert_close(moved.to_pivot(logprobs).exp(), torch.tensor([[0.2, 0.0, 0.4]]))
    picked = TokenMap(torch.zeros(3, dtype=int), torch.tensor([3, -1, 0]))
    torch.testing.assert_close(picked.to_pivot(logprobs).exp(), torch.tensor([[0.4, 0.0, 0.1]]))


def test_mined_map_by_hand():
    """Against Levenshtein's distance, written out."""

    def distance(a: str, b: str) -> int:
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            last, row[0] = row[0], i
            for j, y in enumerate(b, 1):
                last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
        return row[-1]

    pivot, member = tokenizer(LLAMA), tokenizer(QWEN)
    found = mined_map(pivot, member)
    generator = torch.Generator().manual_seed(0)
    for i in torch.randint(256, 640, (12,), generator=generator).tolist():
        nearest = pivot.tokens[found.columns[i]]
        best = min(distance(member.tokens[i], token) for token in pivot.tokens if token)
        assert distance(member.tokens[i], nearest) == best
    assert pivot.tokens[found.columns[member.ids["<|im_end|>"]]] == "<|eot_id|>"
    assert member.tokens[found.reads[pivot.ids["<|eot_id|>"]]] == "<|im_end|>"


def part(folder, weight=1.0, spec=""):
    from tokenkit.tokenizers import load_tokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    hf = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return str(folder), model, hf, load_tokenizer(spec or str(folder)), weight


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two models of other families and sizes, of the same regular tokens."""
    root = tmp_path_factory.mktemp("two")
    return (
        part(save_model(root / "llama", "llama", LLAMA), 1.0),
        part(save_model(root / "gemma", "gemma2", f"{LLAMA}:target=Qwen2", seed=3), 3.0),
    )


@pytest.mark.parametrize("combine", ["mean_prob", "mean_logits", "mean_logprob"])
def test_combinations_equal_full_distributions(two, combine):
    ensemble = Ensemble(list(two), combine)
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(5, len(tok), generator=generator).double() for *_, tok, _ in two]
    found = ensemble.combine(
        [m.map.to_pivot(x.log_softmax(-1)) for m, x in zip(ensemble.members, logits, strict=True)]
    )
    pivot, other = two[0][3], two[1][3]
    words = [i for i in range(256, 1200) if pivot.tokens[i] in other.ids]
    theirs = [other.ids[pivot.tokens[i]] for i in words]
    first, second = logits[0].softmax(-1)[:, words], logits[1].softmax(-1)[:, theirs]
    if combine == "mean_prob":
        torch.testing.assert_close(found[:, words].exp(), 0.25 * first + 0.75 * second)
    else:
        product = 0.25 * first.log() + 0.75 * second.log()
        ours = found[:, words]
        torch.testing.assert_close(ours - ours[:, :1], product - product[:, :1])
        torch.testing.assert_close(found.exp().sum(1), torch.ones(5).double())


@torch.no_grad()
def test_generation_equals_a_loop_without_cache(two):
    (_, llama, hf, pivot, _), (_, gemma, _, other, _) = two
    ensemble = Ensemble(list(two), "mean_prob")
    texts = ["def f(x):\n", "say the"]
    batch = hf(texts, return_tensors="pt", padding=True)
    rows = [pivot.encode_text(text) for text in texts]
    contexts = [ensemble.members[1].read([pivot.bos_id, *row], pivot) for row in rows]
    assert contexts == [other.encode_text(text) for text in texts]  # Qwen has no BOS
    made = llama.generate(
        **batch, max_new_tokens=8, do_sample=False, eos_token_id=[],
        logits_processor=[Lockstep(ensemble, [contexts])],
    )[:, batch["input_ids"].shape[1] :]  # fmt: skip
    shared = [i for i in range(len(pivot)) if ensemble.readable[i]]
    columns = ensemble.members[1].map.columns
    for row, chosen in zip(rows, made.tolist(), strict=True):
        ours, theirs = [pivot.bos_id, *row], other.encode_text(pivot.decode(row))
        for token in chosen:
            first = llama(torch.tensor([ours])).logits[0, -1].softmax(-1)
            second = gemma(torch.tensor([theirs])).logits[0, -1].softmax(-1)
            mixed = {
                i: 0.25 * first[i] + 0.75 * (second[columns[i]] if columns[i] >= 0 else 0)
                for i in shared
            }
            assert token == max(mixed, key=mixed.get)
            ours.append(token)
            theirs.append(int(ensemble.members[1].map.reads[token]))
