"""Golden cases of losses, run through the very objects that training uses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tokenkit.config import config_from_dict
from tokenkit.data import Batch
from tokenkit.losses import LOSSES
from tokenkit.losses.aggregation import combine_weights, mixture
from tokenkit.losses.base import Signals
from tokenkit.models.linear_scores import linear_scores
from tokenkit.training.gradients import gram_matrices


def load_arrays(folder: Path, case: dict) -> dict[str, Tensor]:
    with np.load(folder / case["file"]) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def make_batch(a: dict[str, Tensor]) -> Batch:
    return Batch(
        student_ids=a["in.input_ids_new"].long(),
        student_mask=a["in.attention_mask_new"].bool(),
        student_loss_mask=a["in.loss_mask_new"],
        teacher_ids=a["in.input_ids_original"].long(),
        teacher_mask=a["in.attention_mask_original"].bool(),
        teacher_loss_mask=a["in.loss_mask_original"],
        student_chunks={"unconstrained": a["in.student_chunks"]},
        teacher_chunks={"unconstrained": a["in.teacher_chunks"]},
        stats={},
    )


def scores_of(logits: Tensor, ids: Tensor, boundary: Tensor) -> Signals:
    """Scores as training computes them: with an identity matrix, hidden states are logits."""
    labels = torch.nn.functional.pad(ids[:, 1:], (0, 1))
    identity = torch.eye(logits.shape[-1])
    scores = linear_scores(logits.flatten(0, 1), identity, labels.flatten(), boundary, block=(7, 8))
    label, mass = scores.label_logprob, scores.boundary_logprob
    return Signals(label.view(ids.shape), mass.view(ids.shape))


def check(case: dict, name: str, ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(
        ours.float(),
        expected.float(),
        rtol=case["rtol"],
        atol=case["atol"],
        msg=lambda text: f"{case['id']}: {name}: {text}",
    )


def check_loss(a: dict[str, Tensor], case: dict, config: dict, loss_name: str) -> None:
    args = case["args"]
    batch = make_batch(a)
    loss = LOSSES.get(loss_name)(config_from_dict(config), None, None)
    logits = a["in.student_logits"].clone().requires_grad_()
    masks = {side: a[f"in.space_mask_{side}"] for side in ("student", "teacher")}
    if "eos_as_space" in args.get("mode", ""):
        for side, mask in masks.items():
            masks[side] = torch.arange(len(mask)) == args[f"{side}_eos"]
    student = scores_of(logits, batch.student_ids, masks["student"])
    teacher = scores_of(a["in.teacher_logits"], batch.teacher_ids, masks["teacher"])
    count = loss.count(batch, teacher).clamp(min=1.0)
    value, _ = loss(batch, student, teacher, count)
    value.backward()
    check(case, "loss", value.detach(), a["out.loss"])
    check(case, "gradient", logits.grad, a["out.grad_student_logits"])


def run_sft(folder: Path, case: dict) -> None:
    check_loss(load_arrays(folder, case), case, {"loss": {"names": ["sft"]}}, "sft")


def run_alm(folder: Path, case: dict) -> None:
    alm = {k: v for k, v in case["args"].items() if not k.endswith("_eos")}
    config = {"loss": {"names": ["alm_unconstrained"]}, "alm": alm}
    check_loss(load_arrays(folder, case), case, config, "alm_unconstrained")


def run_multitask(folder: Path, case: dict) -> None:
    """Aggregations, on the gradients of three losses on two parameters, a and b."""
    arrays, name = load_arrays(folder, case), case["args"]["name"]
    leaves = {leaf: arrays[f"in.{leaf}"] for leaf in ("a", "b")}
    gradients = [[leaf[k] for leaf in leaves.values()] for k in range(len(leaves["a"]))]
    gram = gram_matrices(gradients, torch.device("cpu"))
    norms = gram.diagonal(dim1=-2, dim2=-1).sum(0).sqrt()
    if name == "norm":
        check(case, "a", norms, arrays["out.a"])
    elif name.startswith("approx_gradmag"):
        for key in ("approx_gradmag", "approx_gradmag_preserve_mag"):
            weights = combine_weights(key, torch.ones_like(norms), norms)
            check(case, key, weights, arrays[f"out.{key}"])
    else:
        factors = mixture([(name, case["args"]["max_norm"])], gram)
        for place, (key, leaf) in enumerate(leaves.items()):
            mixed = (factors[place] @ leaf.flatten(1)).view_as(leaf)
            check(case, key, mixed, arrays[f"out.{key}"])


RUNNERS = {"sft": run_sft, "alm": run_alm, "multitask": run_multitask}
