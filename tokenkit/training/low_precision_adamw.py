"""AdamW that keeps its two moments in bfloat16, in half the memory.

They are rounded stochastically. Rounded to the nearest, a moment whose change is below half of
bf16's last digit stands still: with ``beta2`` = 0.999 the second moment would never decay.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenkit.ops.gpu_compile import compiled_on_gpu
from tokenkit.ops.gradients import local_part
from tokenkit.ops.stochastic_rounding import CUT, LOW, mix, round_stochastically
from tokenkit.parallelisms.pieces import Box, box_of

WORKING_BYTES = 40  # of an element of the slice that is computed with
NAMES = ("exp_avg", "exp_avg_sq")


def slice_elements(device: str) -> int:
    """How many elements are computed with in fp32 at once."""
    return 2**18 if device == "cpu" else 2**22  # a CPU's caches; a GPU's launches


@dataclass(frozen=True)
class Rows:
    """Rows of this rank's part of a parameter.

    Attributes:
        number: of the parameter, among those of its group that have gradients.
        shape: of the whole parameter; ``box``: where in it the rows are.
        tensors: parameter, gradient, first and second moment.
    """

    number: int
    shape: torch.Size
    box: Box
    tensors: tuple[Tensor, ...]

    def places(self, device: torch.device) -> Tensor:
        """Each element's number in the whole parameter, modulo 2**32: int32, flat."""
        found = torch.zeros((), dtype=torch.int32, device=device)
        for extent, begin, size in zip(self.shape, *self.box, strict=True):
            along = torch.arange(begin, begin + size, dtype=torch.int32, device=device)
            found = found[..., None] * extent + along
        return found.flatten()


class LowPrecisionAdamW(torch.optim.Optimizer):
    """AdamW (arXiv 1711.05101) for fp32 parameters, whole or sharded, with bf16 moments.

    Which way a number is rounded follows from ``seed``, its parameter's name and step, and its
    place in the whole parameter. So a resumed run rounds as one that never stopped, however the
    parameter is sharded, and ranks with the same part of it keep the same moments.

    Args:
        params: best with names (pairs); without, their order counts.

    Attributes:
        found_inf: 0-d; where it is 1, a step changes nothing. The CPU does not read it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.found_inf: Tensor | None = None
        self._words: dict[nn.Parameter, Tensor] = {}  # a random one each, 0-d
        for group in self.param_groups:
            listed = range(len(self._words), len(self._words) + len(group["params"]))
            names = group.get("param_names", listed)
            for name, parameter in zip(names, group["params"], strict=True):
                self.state[parameter] = first_state(parameter, torch.bfloat16, parameter.device)
                word = torch.tensor([zlib.crc32(f"{seed}/{name}".encode()) - 2**31]).int()
                self._words[parameter] = mix(word)[0].to(parameter.device)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As saved; torch alone would give moments the dtype of parameters."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state.update({name: state[name].bfloat16() for name in NAMES if name in state})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all parameters that have gradients."""
        for group in self.param_groups:
            here = [p for p in group["params"] if p.grad is not None]
            if here:
                self._step_group(group, here)

    def _step_group(self, group: dict[str, Any], here: list[nn.Parameter]) -> None:
        device = here[0].device
        skipped = torch.zeros((), device=device) if self.found_inf is None else self.found_inf
        steps = [self.state[p]["step"] for p in here]
        words = torch.stack([self._words[p] for p in here])
        factors = _factors(group, torch.stack(steps) + 1, words)
        decay = torch.full((), 1 - group["lr"] * group["weight_decay"], device=device)
        for rows in _batches(self._rows(here), slice_elements(device.type)):
            parts = zip(*(r.tensors for r in rows), strict=True)
            parameter, gradient, exp_avg, exp_avg_sq = map(_joined, parts)
            places = _joined([r.places(device) for r in rows])
            rate, scale, seed = (_spread(values, rows) for values in factors)
            results = _updated(
                parameter, gradient, exp_avg, exp_avg_sq, places, rate, scale, seed, decay,
                skipped > 0, group["betas"], group["eps"],
            )  # fmt: skip
            for place, result in zip((0, 2, 3), results, strict=True):
                _write([r.tensors[place] for r in rows], result)
        torch._foreach_add_(steps, [1 - skipped] * len(steps))

    def _rows(self, parameters: list[nn.Parameter]) -> Iterator[Rows]:
        """All that is on this rank, in pieces of a slice at most (or one row)."""
        for number, parameter in enumerate(parameters):
            state, (begin, size) = self.state[parameter], box_of(parameter)
            tensors = (parameter, parameter.grad, *(state[name] for name in NAMES))
            parts = [local_part(tensor) for tensor in tensors]
            if not size:
                yield Rows(number, parameter.shape, Box(begin, size), tuple(parts))
                continue
            row = max(1, math.prod(size[1:]))
            count = max(1, slice_elements(parameter.device.type) // row)
            for first in range(0, size[0], count):
                cut = tuple(part[first : first + count] for part in parts)
                box = Box((begin[0] + first, *begin[1:]), (len(cut[0]), *size[1:]))
                yield Rows(number, parameter.shape, box, cut)


def first_state(
    parameter: nn.Parameter, dtype: torch.dtype, device: torch.device | None
) -> dict[str, Tensor]:
    """AdamW's state before the first step; ``device`` (None: CPU) is where the counter is read."""
    return {
        "step": torch.zeros((), dtype=torch.float32, device=device),
        **{name: torch.zeros_like(parameter.detach(), dtype=dtype) for name in NAMES},
    }


def _batches(pieces: Iterator[Rows], most: int) -> Iterator[list[Rows]]:
    """Small pieces together, of at most so many elements (or one piece)."""
    batch: list[Rows] = []
    held = 0
    for rows in pieces:
        size = math.prod(rows.box.size)
        if batch and held + size > most:
            yield batch
            batch, held = [], 0
        batch.append(rows)
        held += size
    if batch:
        yield batch


def _factors(group: dict[str, Any], steps: Tensor, words: Tensor) -> list[Tensor]:
    """Of each parameter: rate, factor of the root of the second moment, seed of its bits."""
    beta1, beta2 = group["betas"]
    rate = group["lr"] / _one_minus_power(beta1, steps)
    return [rate, _one_minus_power(beta2, steps).rsqrt(), mix(words + steps.int())]


def _one_minus_power(beta: float, steps: Tensor) -> Tensor:
    """``1 - beta ** steps``, to fp32's last digits also where beta is nearly 1."""
    return -torch.expm1(steps * (math.log(beta) if beta else -math.inf))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """All elements, flat; without a copy of a single tensor."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    return torch.cat(flat) if len(flat) > 1 else flat[0]


def _spread(values: Tensor, batch: list[Rows]) -> Tensor:
    """Each parameter's value, for all of its elements; 0-d for one parameter."""
    if len(batch) == 1:
        return values[batch[0].number]
    parts = [values[rows.number].expand(math.prod(rows.box.size)) for rows in batch]
    return torch.cat(parts)


def _write(targets: list[Tensor], result: Tensor) -> None:
    parts = result.split([target.numel() for target in targets])
    shaped = [part.view_as(target) for part, target in zip(parts, targets, strict=True)]
    torch._foreach_copy_(targets, shaped)


@compiled_on_gpu
def _updated(
    parameter: Tensor, gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, places: Tensor,
    rate: Tensor, scale: Tensor, seed: Tensor, decay: Tensor, skipped: Tensor,
    betas: tuple[float, float], eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """A step of flat tensors: the new parameter (fp32) and moments (bf16).

    Args:
        rate: learning rate over ``1 - beta1 ** step``.
        scale: ``(1 - beta2 ** step) ** -0.5``.
        decay: what the parameter is multiplied by.
        skipped: bool, 0-d; what comes out is then what came in.
    """
    gradient, (beta1, beta2) = gradient.float(), betas
    first = exp_avg.float().lerp_(gradient, 1 - beta1)
    second = exp_avg_sq.float().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    change = first / second.sqrt().mul_(scale).add_(eps)
    new = (parameter * decay).sub_(change.mul_(rate))
    words = mix(places + seed)
    return (
        torch.where(skipped, parameter, new),
        torch.where(skipped, exp_avg, round_stochastically(first, words & LOW)),
        torch.where(skipped, exp_avg_sq, round_stochastically(second, (words >> CUT) & LOW)),
    )
