"""A model in training against lm-eval's own: lengths, and how its generation config writes."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from tests.evaluation.test_lm_eval_model import FLOAT, asked
from tests.inference.test_ensemble import part
from tokenkit.errors import DataError
from tokenkit.evaluation.live import LiveLM
from tokenkit.evaluation.lm_eval_model import TokenkitLM
from tokenkit.evaluation.lockstep import LockstepLM
from tokenkit.inference.ensemble import Ensemble
from tokenkit.models.causal_lm import load_causal_lm
from tokenkit.models.source import saved_generation
from tokenkit.tokenizers import load_tokenizer

ALONE = SimpleNamespace(device=torch.device("cpu"), dp_rank=0, dp_size=1, shared_group=None)
PROMPTS = ["say the one", "def f(x):", "a b a b"]


def live(folder) -> LiveLM:
    tok = load_tokenizer(str(folder))
    model = load_causal_lm(str(folder), ALONE.device, torch.float32, len(tok)).eval()
    return LiveLM(
        model, tok, model.backbone.config, ALONE, batch_size=1, generation=saved_generation(folder)
    )


def lockstep(folder) -> LockstepLM:
    return LockstepLM(Ensemble([part(folder, 2.0), part(folder)], "mean_prob"), batch_size=1)


def tokenkit(folder) -> TokenkitLM:
    return TokenkitLM(str(folder), batch_size=1, **FLOAT)


@pytest.fixture
def repeating(folders, tmp_path):
    """A model whose generation config says more; ``set`` writes it."""
    folder = tmp_path / "m"
    shutil.copytree(folders["llama"], folder)

    def set_generation(**values):
        (folder / "generation_config.json").write_text(json.dumps(values))
        return folder

    return set_generation


def written(model, **options) -> list[str]:
    options = {"until": ["\n\n"], "max_gen_toks": 24, "do_sample": False} | options
    requests = [asked(text, options) for text in PROMPTS]
    return model.generate_until(requests, disable_tqdm=True)


@pytest.mark.parametrize("make", [live, lockstep])
@pytest.mark.parametrize("penalty", [1.05, 1.3])
def test_a_repetition_penalty_of_the_model(make, penalty, repeating):
    plain = written(HFLM(str(repeating()), batch_size=1, **FLOAT))
    folder = repeating(repetition_penalty=penalty)
    wanted = written(HFLM(str(folder), batch_size=1, **FLOAT))
    assert wanted != plain
    assert written(make(folder)) == wanted
    assert written(make(folder), repetition_penalty=1.0) == plain  # a task's own goes first


def test_penalty_in_lockstep_does_not_depend_on_the_batch(repeating):
    folder = repeating(repetition_penalty=1.05)
    model = LockstepLM(Ensemble([part(folder, 2.0), part(folder)], "mean_logits"), batch_size=3)
    assert written(model) == written(HFLM(str(folder), batch_size=1, **FLOAT))


def test_other_settings_of_the_model_are_refused_by_name(repeating):
    model = live(repeating(no_repeat_ngram_size=2, min_p=0.1, temperature=0.7, top_k=5))
    with pytest.raises(DataError, match="no_repeat_ngram_size = 2 of the model's generation_conf"):
        written(model)
    model = live(repeating(min_p=0.1, temperature=0.7, num_beams=1))
    assert len(written(model)) == 3
    with pytest.raises(DataError, match="min_p = 0.1 of the model's"):
        written(model, do_sample=True, temperature=1.0)


@pytest.mark.parametrize("make", [live, lockstep, tokenkit])
def test_a_continuation_that_no_window_holds(make, folders):
    model = make(folders["llama"])
    model._max_length = 8
    with pytest.raises(DataError, match=r"continuation of \d+ tokens cannot be scored.* 8 tokens"):
        model.loglikelihood([asked("say", " the one" * 9)], disable_tqdm=True)


@pytest.mark.parametrize("make", [live, lockstep, tokenkit])
def test_the_longest_continuation_is_scored_whole(make, folders):
    model = make(folders["llama"])
    model._max_length = 8
    context, ids = [5, 6, 7, 8], list(range(300, 300 + model.longest - 1))
    ((found, _),) = model._loglikelihood_tokens([(None, context, ids)], disable_tqdm=True)
    (_, plain, *_) = part(folders["llama"])
    with torch.no_grad():
        logits = plain(torch.tensor([[8, *ids]])).logits[0].log_softmax(-1)
    assert found == pytest.approx(sum(float(logits[i, t]) for i, t in enumerate(ids)), abs=1e-3)
    with pytest.raises(DataError, match="cannot be scored"):
        model._loglikelihood_tokens([(None, context, [*ids, 5])], disable_tqdm=True)
