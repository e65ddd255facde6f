"""KD against torch's own divergence, on what both sides have read; and its settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.launch import SPEC_A
from tests.losses.test_baselines import STUDENT_VOCAB, case, make, signals
from tokenkit.config import config_from_dict
from tokenkit.errors import ConfigError
from tokenkit.losses.dskd import DSKD
from tokenkit.losses.kd import KD
from tokenkit.losses.mined import MinED
from tokenkit.tokenizers import load_tokenizer


def one_vocabulary():
    """A batch whose rows part ways at different places, and both sides' signals."""
    batch, student, _ = case(4)
    teacher = signals(batch, "teacher", STUDENT_VOCAB, 1)
    length = batch.student_ids.shape[1]
    batch.student_loss_mask[:, 2] = False
    ids = F.pad(batch.teacher_ids, (0, length - batch.teacher_ids.shape[1]))
    ids[0] = batch.student_ids[0]  # never
    ids[1, 5:] = (batch.student_ids[1, 5:] + 1) % STUDENT_VOCAB  # from token 5 on
    ids[2] = batch.student_ids[2]
    ids[2, 0] = (ids[2, 0] + 1) % STUDENT_VOCAB  # in the first token alone
    return replace(batch, teacher_ids=ids[:, : batch.teacher_ids.shape[1]]), student, teacher


def logits(side) -> torch.Tensor:
    return side.hidden @ side.vocabulary.output.T


@pytest.mark.parametrize("scale_by_temperature", [False, True])
def test_compares_only_what_both_sides_have_read(scale_by_temperature):
    batch, student, teacher = one_vocabulary()
    tau = 3.0
    settings = {"temperature": tau, "scale_by_temperature": scale_by_temperature}
    loss = KD(config_from_dict({"kd": settings}))
    count = loss.count(batch, teacher)
    value, metrics = loss(batch, student, teacher, count)
    length = batch.teacher_ids.shape[1]
    rows, places = [], []
    predicted = batch.student_loss_mask[:, 1:length] & batch.teacher_loss_mask[:, 1:]
    for row, position in predicted.nonzero().tolist():
        if batch.student_ids[row, : position + 1].equal(batch.teacher_ids[row, : position + 1]):
            rows.append(row)
            places.append(position)
    assert set(rows) == {0, 1} and max(p for r, p in zip(rows, places, strict=True) if r == 1) == 4
    expected = F.kl_div(
        (logits(student)[rows, places] / tau).log_softmax(-1),
        (logits(teacher)[rows, places] / tau).log_softmax(-1),
        reduction="batchmean",
        log_target=True,
    )
    if scale_by_temperature:
        expected = expected * tau**2
    assert count == len(rows)
    torch.testing.assert_close(value, expected)
    assert metrics["kd/left_out"] == (predicted.sum() - count) / count
    ours, theirs = (torch.autograd.grad(v, student.hidden)[0] for v in (value, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["mined", "dskd"])
def test_scale_by_temperature_reaches_every_divergence(name):
    """All terms of MinED, and of DSKD all but its cross-entropy."""
    batch, student, teacher = case(5)
    values = []
    for scale in (False, True):
        config = config_from_dict({"kd": {"temperature": 3.0, "scale_by_temperature": scale}})
        loss = MinED(config, mapping=make("mined").mapping) if name == "mined" else DSKD(config)
        if name == "dskd":
            made = make("dskd")
            loss.add_parameters(*(side.hidden.shape[-1] for side in (student, teacher)))
            loss.load_state_dict(made.state_dict())
        count = loss.count(batch, teacher)
        if name == "dskd":
            count = count + loss.student_count(batch, student, teacher, count)
        value, metrics = loss(batch, student, teacher, count)
        values.append({"loss": value.detach(), **metrics})
    plain, scaled = values
    if name == "mined":
        torch.testing.assert_close(scaled["loss"], 9 * plain["loss"])
        return
    torch.testing.assert_close(scaled["dskd/cross_entropy"], plain["dskd/cross_entropy"])
    for part in ("dskd/student_space", "dskd/teacher_space"):
        assert plain[part] > 0
        torch.testing.assert_close(scaled[part], 9 * plain[part])


def test_each_loss_has_its_own_default_divergence():
    config = config_from_dict({})
    assert KD(config).divergence.name == "kl"
    assert DSKD(config).divergence.name == "srkl"  # as the reference
    config = config_from_dict({"kd": {"divergence": "js"}, "dskd": {"divergence": "akl"}})
    assert KD(config).divergence.name == "js" and DSKD(config).divergence.name == "akl"


@pytest.fixture(scope="module")
def with_both_families(tmp_path_factory) -> str:
    """A tokenizer folder with all special tokens of Llama 3 (which has BOS) and Qwen 2 (none)."""
    folder = tmp_path_factory.mktemp("tokenizers")
    load_tokenizer(SPEC_A).save(folder / "llama")
    load_tokenizer(f"{folder}/llama:source=Llama3:target=Qwen2").save(folder / "both")
    return f"{folder}/both"


def test_rows_that_never_begin_alike_are_refused(with_both_families):
    student = load_tokenizer(f"{with_both_families}:target=Llama3")
    teacher = load_tokenizer(f"{with_both_families}:target=Qwen2")
    assert student.tokens == teacher.tokens
    config = config_from_dict({"loss": {"names": ["kd"]}})
    with pytest.raises(ConfigError, match=r"loss\.names: 'kd'.*<\|begin_of_text\|>.*'a'.*one spec"):
        KD(config, student, teacher)
    KD(config, student, student)
    # Without BOS, texts begin alike; only conversations do not.
    without_bos = config_from_dict({"chat": {"text_mode": "direct_encode_no_force_bos"}})
    KD(without_bos, student, teacher)
