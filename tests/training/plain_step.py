"""An optimizer step written down plainly: transformers' model, full logits, loops, autograd.

Only ids, masks and chunk ids are taken from tokenkit's batches. The whole step is one graph: no
accumulation, no blocks of logits, no gradients cut in parts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from tests.losses.reference import difference, first_run_end


class Side(NamedTuple):
    """One tokenizer's view of B rows."""

    ids: Tensor  # [B, T]
    mask: Tensor  # [B, T] bool, real tokens
    loss_mask: Tensor  # [B, T] bool
    chunks: dict[str, Tensor]  # kind → [B, T], −1 for none


def read_batch(batch) -> tuple[Side, Side | None]:
    """Student's and teacher's side of a tokenkit batch."""
    student = Side(
        batch.student.ids, batch.student.mask, batch.student.loss_mask, batch.student.chunks
    )
    if batch.teacher is None:
        return student, None
    return student, Side(
        batch.teacher.ids, batch.teacher.mask, batch.teacher.loss_mask, batch.teacher.chunks
    )


@dataclass
class PlainModel:
    """A transformers causal LM that computes with the tensors it is given.

    Attributes:
        weights: every parameter by transformers' name, a tied output matrix under both names.
        adapters: weight's name → (A ``[r, in]``, B ``[out, r]``) of its low-rank update.
        scale: factor on the updates.
        tokens: rows of the output matrix that are tokens; the others have no probability.
        boundary: ``[tokens]`` bool.
        subwords: ids ``[T]`` of a row → those of a table ``[V, D]`` whose rows are added to its
            embeddings, and that table.
    """

    network: nn.Module
    weights: dict[str, Tensor]
    tokens: int
    boundary: Tensor
    adapters: dict[str, tuple[Tensor, Tensor]]
    scale: float = 1.0
    subwords: tuple[Callable[[list[int]], list[int]], Tensor] | None = None

    def reads(self, side: Side) -> dict[str, Any]:
        """What the network is given."""
        reads = {"attention_mask": side.mask.long(), "use_cache": False}
        if self.subwords is None:
            return reads | {"input_ids": side.ids}
        longest, table = self.subwords
        pairs = zip(side.ids.tolist(), side.mask.sum(1).tolist(), strict=True)
        rows = [torch.tensor(longest(ids[:length])) for ids, length in pairs]
        found = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        found = F.pad(found, (0, side.ids.shape[1] - found.shape[1]))
        embeddings = self.weights["model.embed_tokens.weight"][side.ids] + table[found]
        return reads | {"inputs_embeds": embeddings}

    def scores(self, side: Side) -> tuple[Tensor, Tensor]:
        """Log-prob of each token (0 for the first) and of a boundary after it, ``[B, T]`` each."""
        merged = {n: self.weights[n] + self.scale * b @ a for n, (a, b) in self.adapters.items()}
        weights, reads = {**self.weights, **merged}, self.reads(side)
        logits = functional_call(self.network, weights, (), reads, tie_weights=False).logits
        logprobs = logits[..., : self.tokens].log_softmax(-1)
        label = logprobs[:, :-1].gather(-1, side.ids[:, 1:, None]).squeeze(-1)
        boundary = logprobs.masked_fill(~self.boundary, -math.inf).logsumexp(-1)
        return torch.cat([torch.zeros_like(label[:, :1]), label], 1), boundary


Scored = tuple[Side, Tensor, Tensor]  # a side, its tokens' log-probs and boundary log-probs


def sft(student: Scored) -> tuple[Tensor, float]:
    """Σ −log p and the number of tokens under the loss mask, the first not among them."""
    side, label, _ = student
    places = [(r, t) for r, t in side.loss_mask.nonzero().tolist() if t > 0]
    return -sum(label[r, t] for r, t in places), len(places)


def chunk_places(side: Side, kind: str, row: int) -> dict[int, list[int]]:
    """Chunk → positions of its tokens under the loss mask."""
    places: dict[int, list[int]] = {}
    for t, chunk in enumerate(side.chunks[kind][row].tolist()):
        if chunk >= 0 and side.loss_mask[row, t]:
            places.setdefault(chunk, []).append(t)
    return places


def chunk_groups(places: dict, other: dict, boundary: Tensor, alm) -> list[list[int]]:
    """Chunks of a row that count, those that are compared as one together.

    Args:
        places, boundary: the teacher's, which decides.
        other: the student's places; a chunk with a token that has no score is off on both sides.
    """
    on = [c for c in sorted(places) if 0 not in places[c] and 0 not in other.get(c, [])]
    groups: list[list[int]] = []
    is_open = False
    for chunk in on:
        if is_open and groups[-1][-1] == chunk - 1:
            groups[-1].append(chunk)
        else:
            groups.append([chunk])
        closed = boundary[first_run_end(places[chunk])].exp() > alm.merge_threshold
        is_open = "merge_by_space_prob" in alm.mode and not closed
    return groups


def alm_loss(alm, kind: str, student: Scored, teacher: Scored) -> tuple[Tensor, float]:
    """Σ difference · numerator and Σ denominator of approximate likelihood matching."""
    total, count = student[1].new_zeros((), dtype=torch.float64), 0.0
    for row in range(len(student[0].ids)):
        places = [chunk_places(side, kind, row) for side, _, _ in (teacher, student)]
        for group in chunk_groups(*places, teacher[2][row], alm):
            logprobs = []
            for (_, label, boundary), where in zip((teacher, student), places, strict=True):
                assert all(c in where for c in group), "alignment left a chunk empty"
                found = sum(label[row, t].double() for c in group for t in where[c])
                if "append_space" in alm.mode:
                    found = found + boundary[row, first_run_end(where[group[-1]])].double()
                logprobs.append(found)
            tokens = sum(len(places[0][c]) for c in group)
            weigh = {
                "chunk_count": 1,
                "token_count": tokens,
                "log1p_token_count": math.log1p(tokens),
            }
            value = difference(alm.diff_fn, *logprobs, alm.temperature, alm.renyi_alpha)
            total = total + weigh[alm.numerator] * value
            count += weigh[alm.denominator]
    return total, count


def loss_values(config, student: PlainModel, teacher: PlainModel | None, batches) -> list[Tensor]:
    """Each loss's value over all micro-batches of a step, divided by its count over all of them."""
    sums = [[0.0, 0.0] for _ in config.loss.names]
    for batch in batches:
        own, other = read_batch(batch)
        student_side = (own, *student.scores(own))
        if other is not None:
            with torch.no_grad():
                teacher_side = (other, *teacher.scores(other))
        for place, name in enumerate(config.loss.names):
            if name == "sft":
                total, count = sft(student_side)
            else:
                kind = name.removeprefix("alm_")
                total, count = alm_loss(config.alm, kind, student_side, teacher_side)
            sums[place] = [sums[place][0] + total, sums[place][1] + count]
    return [(total / max(count, 1)).float() for total, count in sums]


def scheduled_weights(config, step: int) -> list[float]:
    """λ of each loss at a step."""
    course = {
        "constant": lambda t: 1.0,
        "linear": lambda t: t,
        "reverse_linear": lambda t: 1 - t,
        "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
        "reverse_cosine": lambda t: (1 - math.cos(math.pi * t)) / 2,
    }
    names, t = config.loss.names, step / config.training.steps
    weights = config.loss.weights or [1.0] * len(names)
    schedules = config.loss.schedules or ["constant"] * len(names)
    return [w * course[s](t) for w, s in zip(weights, schedules, strict=True)]


def norm_of(tensors) -> Tensor:
    return torch.cat([t.flatten() for t in tensors]).norm()


def gradient_of(value: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    return list(
        torch.autograd.grad(
            value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    )


def without_conflicts(gradients: list[list[Tensor]]) -> list[list[Tensor]]:
    """Each loss's gradients without what opposes another loss's, tensor by tensor (pcgrad)."""
    kept = [[g.clone() for g in own] for own in gradients]
    for i, own in enumerate(gradients):
        for j, others in enumerate(gradients):
            for place, (g, h) in enumerate(zip(own, others, strict=True)):
                if i != j and (g * h).sum() < 0:
                    kept[i][place] -= (g * h).sum() / h.square().sum() * h
    return kept


def mix(aggregation: str, weighted: list[list[Tensor]], weights: list[Tensor]):
    """Each loss's weighted gradients after the stages of ``gradclip:1.0+pcgrad``."""
    for stage in filter(None, aggregation.split("+")):
        name, _, limit = stage.partition(":")
        if name == "pcgrad":
            weighted = without_conflicts(weighted)
            continue
        norms = [norm_of(own) for own in weighted]
        if name == "gradmag":
            factors = [w / norm for w, norm in zip(weights, norms, strict=True)]
        else:
            factors = [min(1.0, float(limit) / norm) for norm in norms]
        weighted = [[f * g for g in own] for f, own in zip(factors, weighted, strict=True)]
    return weighted


class Step(NamedTuple):
    """What one step was."""

    losses: dict[str, Tensor]
    weights: list[Tensor]  # of the losses in the total
    total: Tensor
    norm: Tensor  # before clipping
    gradients: dict[str, Tensor]  # after clipping


class PlainTraining:
    """AdamW on the trainable tensors of a plain model.

    Args:
        parameters: leaves by tokenkit's names, all of them used by ``student``.
    """

    def __init__(self, config, student: PlainModel, teacher: PlainModel | None, parameters) -> None:
        self.config, self.student, self.teacher = config, student, teacher
        self.parameters: dict[str, Tensor] = parameters
        settings = config.optimizer
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p], "weight_decay": self._decay(name), "peak": self._peak(name)}
                for name, p in parameters.items()
            ],
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
        )

    def _decay(self, name: str) -> float:
        return 0.0 if re.search(r"norm|bias", name) else self.config.optimizer.weight_decay

    def _peak(self, name: str) -> float:
        settings = self.config.optimizer
        pairs = zip(settings.lr_scale_patterns, settings.lr_scales, strict=True)
        return settings.lr * next((s for pattern, s in pairs if re.search(pattern, name)), 1.0)

    def __call__(self, batches, step: int) -> Step:
        """Step number ``step`` on all its micro-batches."""
        values = loss_values(self.config, self.student, self.teacher, batches)
        losses = dict(zip(self.config.loss.names, values, strict=True))
        weights = self._weights(values, scheduled_weights(self.config, step))
        total = sum(w * v for w, v in zip(weights, values, strict=True))
        leaves = list(self.parameters.values())
        for leaf, gradient in zip(leaves, self._gradient(values, weights), strict=True):
            leaf.grad = gradient
        norm = nn.utils.clip_grad_norm_(leaves, self.config.training.max_grad_norm or math.inf)
        gradients = {name: leaf.grad.clone() for name, leaf in self.parameters.items()}
        self._update(step)
        return Step({n: v.detach() for n, v in losses.items()}, weights, total, norm, gradients)

    def _weights(self, values: list[Tensor], scale: list[float]) -> list[Tensor]:
        """Weight of each loss in the total."""
        aggregation, scale = self.config.loss.aggregation, torch.tensor(scale)
        if aggregation == "":
            return list(scale / len(scale))
        if not aggregation.startswith("approx_gradmag"):
            return list(scale)
        layer = f"backbone.layers.{self.student.network.config.num_hidden_layers - 1}."
        last = [p for name, p in self.parameters.items() if name.startswith(layer)]
        inverse = torch.stack([1 / norm_of(gradient_of(value, last)) for value in values])
        if aggregation == "approx_gradmag_preserve_mag":
            inverse = inverse / inverse.sum()
        return list(scale * inverse)

    def _gradient(self, values: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        """Σ weight · gradient; a mixture changes the gradients before they are summed."""
        leaves = list(self.parameters.values())
        weighted = [gradient_of(w * v, leaves) for w, v in zip(weights, values, strict=True)]
        if not self.config.loss.aggregation.startswith("approx_gradmag"):
            weighted = mix(self.config.loss.aggregation, weighted, weights)
        return [sum(column) for column in zip(*weighted, strict=True)]

    def course(self, step: int) -> float:
        """Share of the peak rate: linear warm-up, linear decay to 0."""
        warmup, steps = self.config.lr_scheduler.warmup_steps, self.config.training.steps
        return step / warmup if step < warmup else (steps - step) / (steps - warmup)

    def _update(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.course(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
