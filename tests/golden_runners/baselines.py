"""Runners of the golden losses on logits and hidden states."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tests.golden_runners.losses import check, load_arrays
from tests.losses.reference import count_of, value_of
from tokenkit.batch import Sequences
from tokenkit.config import config_from_dict
from tokenkit.losses.divergences import Divergence
from tokenkit.losses.dskd import DSKD
from tokenkit.losses.latents import Latents
from tokenkit.losses.mined import MinED
from tokenkit.losses.uld import ULD
from tokenkit.models.outputs import Outputs
from tokenkit.ops.chunked_loss import chunked_loss


class Matrices:
    """A vocabulary whose matrix follows from the hidden states' width; rows a few at a time."""

    def __init__(self, *matrices: Tensor) -> None:
        self.by_width = {matrix.shape[1]: matrix for matrix in matrices}

    def chunked_loss(self, function, hidden, *rows, train_matrix=True):
        matrix = self.by_width[hidden.shape[1]]
        return chunked_loss(function, hidden, matrix, *rows, rows_of_block=7)

    def block_logits(self, hidden):
        return hidden.detach() @ self.by_width[hidden.shape[1]].T


def sequences(arrays: dict[str, Tensor]) -> list[Sequences]:
    """The student's and the teacher's."""
    sides = []
    for name, chunks in (("new", "student"), ("original", "teacher")):
        ids = arrays.get(f"in.input_ids_{name}", arrays[f"in.attention_mask_{name}"])
        mask = arrays[f"in.attention_mask_{name}"].bool()
        loss_mask = arrays.get(f"in.loss_mask_{name}", mask).bool()
        kinds = dict.fromkeys(("unconstrained", "space"), arrays[f"in.{chunks}_chunks"])
        sides.append(Sequences.of(ids.long(), mask, loss_mask, kinds))
    return sides


def run_on_logits(case: dict, arrays: dict[str, Tensor], loss) -> None:
    """Hidden states are the logits, behind an identity matrix."""
    logits = arrays["in.student_logits"].clone().requires_grad_()
    student, teacher = (
        Outputs(seq, hidden=hidden, vocabulary=Matrices(torch.eye(hidden.shape[-1])))
        for seq, hidden in zip(
            sequences(arrays), (logits, arrays["in.teacher_logits"]), strict=True
        )
    )
    value, _ = value_of(loss, student, teacher, count_of(loss, student, teacher))
    check(case, "loss", value, arrays["out.loss"])
    (grad,) = torch.autograd.grad(value, logits)
    check(case, "grad_student_logits", grad, arrays["out.grad_student_logits"])


def run_uld(folder: Path, case: dict) -> None:
    run_on_logits(case, load_arrays(folder, case), ULD(config_from_dict({})))


def run_mined(folder: Path, case: dict) -> None:
    arrays = load_arrays(folder, case)
    config = config_from_dict({"kd": {"temperature": case["args"]["kd_temp"]}})
    run_on_logits(case, arrays, MinED(config, mapping=arrays["in.mined_mapping"]))


def run_divergence(folder: Path, case: dict) -> None:
    """The reference forgets to sum js over the vocabulary."""
    arrays, args = load_arrays(folder, case), case["args"]
    divergence = Divergence(
        args["name"],
        args["kd_temp"],
        args["teacher_temperature"],
        args.get("alpha", 0.5),
        args.get("skew_lambda", 0.1),
    )
    logits = arrays["in.logits"].clone().requires_grad_()
    value = divergence(logits, arrays["in.teacher_logits"])
    expected = arrays["out.value"]
    check(case, "value", value, expected.sum(-1) if expected.ndim > value.ndim else expected)
    (grad,) = torch.autograd.grad(value.sum(), logits)
    check(case, "grad_logits_of_sum", grad, arrays["out.grad_logits_of_sum"])


def run_latents(folder: Path, case: dict) -> None:
    arrays, args = load_arrays(folder, case), case["args"]
    latents = {
        "states": args["to_align"],
        "normalization": args["normalization"],
        "project": args["project"],
        "chunks": args["chunks"],
    }
    loss = Latents(config_from_dict({"latents": latents}))
    loss.add_parameters(*(arrays[f"in.{side}_hidden"].shape[-1] for side in ("student", "teacher")))
    if args["project"]:
        loss.projection.weight.data = arrays["in.projector_kernel"].T
        loss.projection.bias.data = arrays["in.projector_bias"]
    sides, inputs = [], {}
    for side, seq in zip(("student", "teacher"), sequences(arrays), strict=True):
        hidden, qkv = (arrays[f"in.{side}_{name}"].clone() for name in ("hidden", "qkv"))
        if side == "student":
            inputs = {"hidden": hidden.requires_grad_(), "qkv": qkv.requires_grad_()}
        states = tuple(hidden)
        joined = tuple(torch.cat(tuple(layer), -1) for layer in qkv)
        sides.append(Outputs(seq, hidden=states[-1], hidden_states=states, qkv=joined))
    value, _ = value_of(loss, *sides, count_of(loss, *sides))
    check(case, "loss", value, arrays["out.loss"])
    grads = torch.autograd.grad(value, list(inputs.values()), materialize_grads=True,
                                allow_unused=True)  # fmt: skip
    for name, grad in zip(inputs, grads, strict=True):
        check(case, f"grad_student_{name}", grad, arrays[f"out.grad_student_{name}"])


class DSKDWithGivenLogits(DSKD):
    """The case gives logits apart from the hidden states, so hidden states carry them along."""

    widths: tuple[int, int]

    def _project(self, student, teacher, count):
        plain = (
            outputs._replace(hidden=outputs.hidden[..., :width])
            for outputs, width in zip((student, teacher), self.widths, strict=True)
        )
        return super()._project(*plain, count)


def run_dskd(folder: Path, case: dict) -> None:
    arrays, args = load_arrays(folder, case), case["args"]
    kd = {
        "alpha": args["adaptive_kl_alpha"],
        "skew": args["skew_lambda"],
        "temperature": args["kd_temp"],
        "teacher_temperature": args["teacher_temperature"],
    }
    config = config_from_dict({"kd": kd, "dskd": {"divergence": args["divergence"]}})
    loss = DSKDWithGivenLogits(config)
    loss.widths = tuple(arrays[f"in.{s}_last_hidden"].shape[-1] for s in ("student", "teacher"))
    loss.add_parameters(*loss.widths)
    names = {"query": "query", "to_teacher_space": "s2t", "to_student_space": "t2s"}
    for ours, theirs in names.items():
        module = getattr(loss, ours)
        module.weight.data = arrays[f"in.projector_{theirs}.kernel"].T
        module.bias.data = arrays[f"in.projector_{theirs}.bias"]
    sides, inputs = [], {}
    for side, seq in zip(("student", "teacher"), sequences(arrays), strict=True):
        parts = {n: arrays[f"in.{side}_{n}"].clone() for n in ("embeds", "last_hidden", "logits")}
        if side == "student":
            inputs = {name: tensor.requires_grad_() for name, tensor in parts.items()}
        width, size = parts["last_hidden"].shape[-1], parts["logits"].shape[-1]
        beside = torch.cat([torch.zeros(size, width), torch.eye(size)], -1)
        carried = torch.cat([parts["last_hidden"], parts["logits"]], -1)
        vocabulary = Matrices(arrays[f"in.{side}_matrix"][:, -1], beside)
        sides.append(
            Outputs(seq, embeddings=parts["embeds"], hidden=carried, vocabulary=vocabulary)
        )
    student, teacher = sides
    # The reference takes the spread over padding, too.
    seq = teacher.seq
    unpadded = Sequences.of(seq.ids, loss_mask=seq.loss_mask)
    plain = teacher._replace(seq=unpadded, hidden=arrays["in.teacher_last_hidden"])
    count = count_of(loss, student, plain)
    match = loss.match(student.seq, teacher)
    count = count + loss.student_count(match, student, teacher, count)
    value, _ = loss(match, student, teacher, count)
    check(case, "loss", value, arrays["out.loss"])
    for name, grad in zip(inputs, torch.autograd.grad(value, list(inputs.values())), strict=True):
        check(case, f"grad_student_{name}", grad, arrays[f"out.grad_student_{name}"])


RUNNERS = {
    "uld": run_uld,
    "mined": run_mined,
    "divergence": run_divergence,
    "alm_latents": run_latents,
    "dskd": run_dskd,
}
