"""KD against torch's own divergence, on what both sides have read; and its settings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.launch import SPEC_A
from tests.losses.reference import count_of, value_of
from tests.losses.test_baselines import STUDENT_VOCAB, case, make, outputs_of, whole_count
from tokenkit.config import config_from_dict
from tokenkit.errors import ConfigError
from tokenkit.losses.dskd import DSKD
from tokenkit.losses.kd import KD
from tokenkit.losses.mined import MinED
from tokenkit.tokenizers import load_tokenizer


def one_vocabulary():
    """Both sides' outputs, whose rows part ways at different places."""
    student, teacher = case(4)
    mine, theirs = student.seq, teacher.seq
    length, shorter = mine.ids.shape[1], theirs.ids.shape[1]
    mine.loss_mask[:, 2] = False
    ids = F.pad(theirs.ids, (0, length - shorter))
    ids[0] = mine.ids[0]  # never
    ids[1, 5:] = (mine.ids[1, 5:] + 1) % STUDENT_VOCAB  # from token 5 on
    ids[2] = mine.ids[2]
    ids[2, 0] = (ids[2, 0] + 1) % STUDENT_VOCAB  # in the first token alone
    theirs.ids = ids[:, :shorter]
    return student, outputs_of(theirs, STUDENT_VOCAB, 1, learns=False)


def logits(side) -> torch.Tensor:
    return side.hidden @ side.vocabulary.output.T


@pytest.mark.parametrize("scale_by_temperature", [False, True])
def test_compares_only_what_both_sides_have_read(scale_by_temperature):
    student, teacher = one_vocabulary()
    tau = 3.0
    settings = {"temperature": tau, "scale_by_temperature": scale_by_temperature}
    loss = KD(config_from_dict({"kd": settings}))
    count = count_of(loss, student, teacher)
    value, metrics = value_of(loss, student, teacher, count)
    mine, theirs = student.seq, teacher.seq
    length = theirs.ids.shape[1]
    rows, places = [], []
    predicted = mine.loss_mask[:, 1:length] & theirs.loss_mask[:, 1:]
    for row, position in predicted.nonzero().tolist():
        if mine.ids[row, : position + 1].equal(theirs.ids[row, : position + 1]):
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
    student, teacher = case(5)
    values = []
    for scale in (False, True):
        config = config_from_dict({"kd": {"temperature": 3.0, "scale_by_temperature": scale}})
        loss = MinED(config, mapping=make("mined").mapping) if name == "mined" else DSKD(config)
        if name == "dskd":
            made = make("dskd")
            loss.add_parameters(*(side.hidden.shape[-1] for side in (student, teacher)))
            loss.load_state_dict(made.state_dict())
        count = whole_count(loss, [(student, teacher)])
        value, metrics = value_of(loss, student, teacher, count)
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
