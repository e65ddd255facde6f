"""An optimizer step run on the meta device: what it allocates is counted, nothing is computed.

Layers, losses, balance and activation checkpointing are those of training, so no formula here has
to follow them. What sharding does to gradients is played by hooks.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._python_dispatch import TorchDispatchMode

from tokenkit.batch import Batch, Sequences, StepBatch
from tokenkit.config import Config
from tokenkit.errors import ConfigError
from tokenkit.losses import Loss
from tokenkit.models.vocabulary.table import Vocabulary
from tokenkit.parallelisms.activation_checkpoint import apply_activation_checkpoint
from tokenkit.parallelisms.mesh import Parallel
from tokenkit.planning.lone_rank import Workload, alone, spread
from tokenkit.planning.models import PlannedModels
from tokenkit.training.step import TrainStep

aten = torch.ops.aten


class Allocations(TorchDispatchMode):
    """Bytes of tensors on the meta device that came into being inside and still live.

    Attributes:
        live, peak: now, and at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def leave_out(self, tensors: Iterator[Tensor]) -> None:
        """Not to count these, which were there before."""
        for tensor in tensors:
            self._add(tensor, 0)

    def _add(self, tensor: Tensor, size: int | None = None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes() if size is None else size
        self.live += self._sizes[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten._local_scalar_dense.default and args[0].is_meta:
            return True  # only transformers asks: whether no row is packed
        if func is aten.nonzero.default:  # at worst, everything
            out: Any = args[0].new_empty(args[0].numel(), args[0].ndim, dtype=torch.int64)
        else:
            out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._add(tensor)
        return out


@dataclass
class Rehearsed:
    """Bytes of one rank, beside parameters and optimizer state.

    Attributes:
        signals: what is kept of the teacher until the student has run.
        activations: kept for backward when the first forward pass is done.
        teacher_peak, peak: most bytes alive at once, until the teacher has read and after.
    """

    signals: int = 0
    activations: int = 0
    teacher_peak: int = 0
    peak: int = 0


def _sequences(rows: int, length: int, kinds: tuple[str, ...], expanded: bool) -> Sequences:
    def make(dtype: torch.dtype) -> Tensor:
        return torch.empty(rows, length, dtype=dtype, device="meta")

    return Sequences(
        make(torch.int64), make(torch.bool), make(torch.bool), make(torch.bool),
        torch.empty(rows * length, dtype=torch.int64, device="meta"),
        {kind: make(torch.int32) for kind in kinds},
        subwords=make(torch.int64) if expanded else None,
    )  # fmt: skip


def _batch(work: Workload, losses: list[Loss], models: PlannedModels, number: int) -> StepBatch:
    kinds = tuple(sorted({loss.chunk_kind for loss in losses if loss.chunk_kind}))
    expanded = models.student.vocabulary.expansion is not None
    micro_batches = []
    for _ in range(number):
        student = _sequences(work.rows, work.student_length, kinds, expanded)
        teacher = _sequences(work.rows, work.teacher_length, kinds, False)
        micro_batches.append(Batch(student, {"teacher": teacher}))
    return StepBatch(micro_batches)


@dataclass
class _Shards:
    """Gradients as FSDP leaves them: a unit's are joined in fp32, and a part of the sum stays."""

    shards: int
    units: list[list[nn.Parameter]]
    kept: dict[int, Tensor] = field(default_factory=dict)
    sent: Tensor | None = None  # what the last unit sends, until the next one does
    missing: dict[int, set[int]] = field(default_factory=dict)
    arrived: int = 0

    def hook(self) -> list[Any]:
        handles = []
        for number, unit in enumerate(self.units):
            self.missing[number] = {id(p) for p in unit}
            for parameter in unit:
                handles.append(
                    parameter.register_post_accumulate_grad_hook(self._arrived(number, unit))
                )
        return handles

    def _arrived(self, number: int, unit: list[nn.Parameter]) -> Callable[[Tensor], None]:
        def arrived(parameter: Tensor) -> None:
            missing = self.missing[number]
            missing.discard(id(parameter))
            if missing:
                return
            missing |= {id(p) for p in unit}
            size = sum(p.numel() for p in unit)
            self.sent = None
            self.sent = torch.empty(size, dtype=torch.float32, device="meta")
            for p in unit:
                p.grad = None
            part = torch.empty(-(-size // self.shards), dtype=torch.float32, device="meta")
            self.kept.setdefault(number, part)
            self.arrived += 1
            if self.arrived % len(self.units) == 0:  # nothing is sent any more
                self.sent = None

        return arrived


def fsdp_units(models: PlannedModels) -> list[list[nn.Parameter]]:
    """What is trained of the student, as it is reduced: layers, matrices, the rest.

    The output matrix's gradient is there first, while all activations are.
    """
    student = models.student
    units = [list(layer.parameters()) for layer in student.layers]
    units += [[p] for p in student.vocabulary.parameters()]
    known = {id(p) for unit in units for p in unit}
    units.append([p for p in student.parameters() if id(p) not in known])
    return [trained for unit in units if (trained := [p for p in unit if p.requires_grad])]


def rehearse(config: Config, models: PlannedModels, work: Workload) -> Rehearsed:
    """Run a step's forward and backward passes on the meta device; the models are used up.

    Raises:
        ConfigError: if a loss asks a tensor for its values, or a model cannot be spread so.
    """
    with alone(work.device):
        context = spread(models, work)
    if config.activation_checkpoint.mode != "none":
        apply_activation_checkpoint(models.student, config.activation_checkpoint)
    # All that the teacher reads at once; of these, the student reads two at most.
    number = min(work.micro_batches, max(2, work.joined))
    batch = _batch(work, models.losses, models, number)
    trained = [p for p in models.student.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained or [torch.zeros(1)])
    found, memory = Rehearsed(), Allocations()
    memory.leave_out(_tensors(models, batch))
    shards = _Shards(work.shards, fsdp_units(models))
    hooks = shards.hook() if work.shards else []
    place = Parallel(torch.device("meta"), _NO_STORE, _NO_MESH, 0, 1, _NO_GROUP, context)
    try:
        with alone(work.device), memory:
            step = TrainStep(
                config, models.student, models.teacher, models.losses, optimizer, place
            )
            with models.student.opened():
                passes = step._prepare(batch, 0)
                found.signals = memory.live // number * work.micro_batches
                found.teacher_peak = memory.peak + found.signals - memory.live
                del passes.micro_batches[2:], batch.micro_batches[2:]
                now = memory.peak = memory.live
                run = passes.run

                def noted(*args: Any, **options: Any) -> Any:
                    result = run(*args, **options)
                    found.activations = max(found.activations, memory.live)
                    return result

                passes.run = noted  # type: ignore[method-assign]
                step.balance(passes)
    except (NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"loss.names = {config.loss.names}: no plan can be made of these ({reason})"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    found.activations -= now
    found.peak = memory.peak + found.signals - now
    return found


_NO_STORE: dist.Store = None
_NO_MESH: DeviceMesh = None
_NO_GROUP: dist.ProcessGroup = None


def _tensors(models: PlannedModels, batch: StepBatch) -> Iterator[Tensor]:
    held = [m for m in (models.student, models.teacher_model, models.beside) if m is not None]
    for module in held:
        yield from module.parameters()
        yield from module.buffers()
    for vocabulary in (m for module in held for m in module.modules()):
        if isinstance(vocabulary, Vocabulary) and vocabulary.boundary is not None:
            yield vocabulary.boundary
    for micro in batch.micro_batches:
        for seq in (micro.student, *micro.teachers.values()):
            yield from (t for t in vars(seq).values() if isinstance(t, Tensor))
            yield from seq.chunks.values()
