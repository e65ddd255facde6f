"""One optimizer step with a hypernetwork against plain autograd.

The step predicts the vocabulary once, in chunks, gathers gradients of all micro-batches on the
predicted matrices and goes back through the network once. Here everything is one graph: the network
called on all forms at once, full logits, one backward.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.data.support import SPEC_A, make_config
from tests.models.tiny import save_tiny
from tests.training.recorder import Recorder
from tokenkit.data import build_train_loader
from tokenkit.losses.sft import SFT
from tokenkit.models.vocabulary import hypernet as hypernet_vocabulary
from tokenkit.training.step import TrainStep
from tokenkit.training.student import build_student, open_student_source
from tokenkit.training.tokenizers import load_tokenizers

SAMPLER = {"enable": True, "size_mean": 800, "size_min": 600, "size_max": 900, "texts": 12}
SOFTCAP = 30.0  # of Gemma 2's logits


def make(folder, texts_file, family: str, micro_batch_size: int, **hypernet):
    """A student whose network is off its first values, and one step's micro-batches."""
    model = save_tiny(folder / "model", family, vocab_size=1505)
    config = make_config(
        texts_file,
        student={"model": str(model), "tokenizer": SPEC_A},
        hypernet={
            "architecture": "transformer", "num_layers": 1, "num_heads": 4,
            "max_surface_length": 3, "byte_embeddings": True, **hypernet,
        },
        tokenizer_sampler=SAMPLER,
        training={"micro_batch_size": micro_batch_size, "max_grad_norm": 0.0},
    )  # fmt: skip
    tokenizers = load_tokenizers(config, needs_teacher=False)
    student = build_student(config, open_student_source(config, tokenizers), tokenizers, None)
    generator = torch.Generator().manual_seed(0)
    for parameter in student.vocabulary.hypernet.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    rows = student.vocabulary.source_rows
    loader = build_train_loader(config, tokenizers.student, None, (), 0, 1, source_rows=rows)
    return config, student, next(iter(loader))


def plain_loss(student, step, embed_scale: float, softcap: float | None) -> torch.Tensor:
    """Mean −log p of the step's tokens under the loss mask."""
    vocabulary, forms = student.vocabulary, step.vocabulary
    source = [m for m in (vocabulary.input, vocabulary.output) if m is not None]
    table = torch.cat([torch.stack(source, 1), vocabulary.extra])
    given = table[forms.ids]
    predicted = vocabulary.hypernet(given, forms.mask)
    predicted = torch.where(forms.copied[:, None, None], given[:, 0], predicted)
    inputs, outputs = predicted[:, 0], predicted[:, -1][: forms.valid]
    total, count = 0.0, 0
    for batch in step.micro_batches:
        embeddings = inputs[batch.student.ids] * embed_scale
        hidden = student.backbone(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        logits = hidden @ outputs.T
        if softcap:
            logits = softcap * torch.tanh(logits / softcap)
        mask = batch.student.loss_mask[:, 1:]
        total = total + F.cross_entropy(
            logits[:, :-1][mask], batch.student.ids[:, 1:][mask], reduction="sum"
        )
        count += int(mask.sum())
    return total / count


@pytest.mark.parametrize("micro_batch_size", [8, 2])
@pytest.mark.parametrize(
    ("family", "embed_scale", "softcap", "hypernet"),
    [
        ("llama", 1.0, None, {}),
        ("llama", 1.0, None, {"residual": False, "pooling": "mean", "shared": False}),
        ("gemma2", 32**0.5, SOFTCAP, {"residual_pooling": "mean"}),
    ],
    ids=["untied", "untied, two networks", "tied, scaled and capped"],
)
def test_one_step_equals_plain_autograd(
    family, embed_scale, softcap, hypernet, micro_batch_size, parallel, texts_file, tmp_path,
    monkeypatch,
):  # fmt: skip
    monkeypatch.setitem(hypernet_vocabulary.CHUNK_BYTES, "cpu", 2**16)  # many chunks
    config, student, batch = make(tmp_path, texts_file, family, micro_batch_size, **hypernet)
    forms = batch.vocabulary
    assert len(batch.micro_batches) == 8 // micro_batch_size
    assert forms.copied.any() and (forms.lengths[: forms.valid] > 1).any()
    loss = plain_loss(student, batch, embed_scale, softcap)
    loss.backward()
    wanted = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad(set_to_none=True)

    recorder = Recorder(student)
    step = TrainStep(config, student, None, [SFT(config)], recorder, parallel)
    metrics = step(batch, 0)
    torch.testing.assert_close(metrics["loss"], loss.detach())
    networks = [name for name in wanted if name.startswith("vocabulary.hypernet.networks.")]
    assert len(networks) == len([*student.vocabulary.hypernet.parameters()]) > 10
    for name in ("vocabulary.input", "vocabulary.extra", *networks):
        assert wanted[name].abs().max() > 0, name
    assert recorder.gradients.keys() == wanted.keys()
    for name, expected in wanted.items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(
            recorder.gradients[name], expected, rtol=1e-3, atol=2e-5 * scale + 1e-9, msg=name
        )
