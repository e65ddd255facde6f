"""Rows of a model's matrices that belong to no token have no probability on either side."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from tests.launch import SPEC_A
from tests.models.tiny import save_tiny
from tokenkit.batch import Sequences
from tokenkit.config import config_from_dict
from tokenkit.losses import build_losses
from tokenkit.models.causal_lm import load_causal_lm
from tokenkit.models.outputs import NEEDS
from tokenkit.parallelisms import init_parallel
from tokenkit.tokenizers import load_tokenizer
from tokenkit.training.student import build_student, open_student_source
from tokenkit.training.teacher import build_teacher
from tokenkit.training.tokenizers import load_tokenizers

ROWS = 1600


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with more rows than its tokenizer has tokens, and large logits in those."""
    folder = tmp_path_factory.mktemp("models")
    made = AutoModelForCausalLM.from_pretrained(save_tiny(folder / "m", "llama", vocab_size=ROWS))
    with torch.no_grad():
        made.lm_head.weight[len(load_tokenizer(SPEC_A)) :] *= 5.0
    made.save_pretrained(folder / "large")
    return folder / "large"


@pytest.fixture(params=["full", "lora"])
def built(request, model):
    """Student and teacher as a run makes them; with lora, the teacher shares the student."""
    sections = {
        "student": {"model": str(model), "tokenizer": SPEC_A, "train": request.param,
                    "pad_vocab_multiple": 64},
        "loss": {"names": ["alm_unconstrained"]},
    }  # fmt: skip
    config = config_from_dict(sections)
    parallel = init_parallel(config)
    try:
        tokenizers = load_tokenizers(config, needs_teacher=True)
        source = open_student_source(config, tokenizers)
        toks = tokenizers.student, tokenizers.teacher
        losses = build_losses(config, *toks, source.width, source.width)
        student = build_student(config, source, tokenizers, parallel, losses)
        yield student, build_teacher(config, source, student, tokenizers, parallel)
    finally:
        dist.destroy_process_group()


def test_unused_rows_have_no_probability(built, model):
    student, teacher = built
    tok = load_tokenizer(SPEC_A)
    size = len(tok)
    assert size < ROWS <= student.vocabulary.rows
    ids = torch.randint(size, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(model)(ids).logits
    logprob = logits[..., :size].log_softmax(-1)
    assert logits[..., size:].amax() > logits[..., :size].amax()  # they would win
    label = logprob[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    boundary = logprob[..., torch.from_numpy(tok.space_mask())].logsumexp(-1)
    seq = Sequences.of(ids)
    with torch.no_grad():
        sides = teacher.read(seq, NEEDS), student(seq, NEEDS)
    assert sides[0].vocabulary is not sides[1].vocabulary
    for side in sides:
        vocabulary, hidden = side.vocabulary, side.hidden
        torch.testing.assert_close(side.token_logprob[:, 1:], label, atol=1e-5, rtol=1e-5)
        assert side.token_logprob[:, 0].eq(0).all()
        torch.testing.assert_close(side.boundary_logprob, boundary, atol=1e-5, rtol=1e-5)
        given = vocabulary.block_logits(hidden.flatten(0, 1)).softmax(-1)
        assert given.shape[-1] == size
        torch.testing.assert_close(given, logprob.exp().flatten(0, 1), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(given.sum(-1), torch.ones(len(given)))
        streamed = vocabulary.chunked_loss(lambda rows: rows.logsumexp(-1), hidden.flatten(0, 1))
        torch.testing.assert_close(streamed, logits[..., :size].logsumexp(-1).sum(), rtol=1e-5,
                                   atol=1e-3)  # fmt: skip
        torch.testing.assert_close(vocabulary.logits(hidden), logits[..., :size], atol=1e-4,
                                   rtol=1e-4)  # fmt: skip


@pytest.mark.parametrize("valid", [None, 900, 10 * ROWS])
def test_load_causal_lm_takes_the_tokenizers_size(model, valid):
    ids = torch.randint(900, (1, 9), generator=torch.Generator().manual_seed(1))
    made = load_causal_lm(str(model), torch.device("cpu"), torch.float32, valid_vocab=valid)
    with torch.no_grad():
        found = made(Sequences.of(ids)).token_logprob
        logits = AutoModelForCausalLM.from_pretrained(model)(ids).logits[..., :valid]
    expected = logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(found[:, 1:], expected, atol=1e-5, rtol=1e-5)
