"""What a balance is: it makes one gradient of several losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from tokenkit.registry import Registry

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from tokenkit.config import Config

Metrics = dict[str, Tensor]
BALANCES = Registry("balance")


class Passes(Protocol):
    """A step's micro-batches, ready for the student, L losses each.

    Attributes:
        step: its number, from 0.
        scale: ``[L]`` scheduled weights λ.
        parameters: the optimizer's, which may be sharded.
        group: ranks that have other rows of the step.
    """

    step: int
    scale: Tensor
    parameters: list[Tensor]
    group: ProcessGroup

    @property
    def names(self) -> list[str]:
        """The losses'."""
        ...

    def __len__(self) -> int:
        """Number of micro-batches."""
        ...

    def run(self, number: int, metrics: Metrics, keep: bool = False) -> tuple[Any, list[Tensor]]:
        """Forward pass of a micro-batch: its graph and this rank's share of each loss.

        What is known of the losses is added to ``metrics``. ``keep`` what
        :meth:`last_layer_gradients` needs.
        """
        ...

    def probe(self, number: int) -> tuple[Any, list[Tensor]]:
        """A forward pass that is recorded from the last layer on only."""
        ...

    def last_layer_gradients(self, graph: Any, values: list[Tensor]) -> list[list[Tensor]]:
        """Each loss's gradients on the last layer's trainable parameters, this rank's share."""
        ...

    def backward(self, graph: Any, value: Tensor, retain: bool = False, more: bool = False) -> None:
        """Add the gradients of this rank's share of a value to all parameters.

        With ``more`` to be added in this step, a parameter's ``grad`` may be missing until then.
        """
        ...


class Balance:
    """Runs a step's micro-batches forward and backward; register a subclass in ``BALANCES``.

    Args:
        losses: their number L.
    """

    def __init__(self, config: Config, losses: int, device: torch.device) -> None:
        pass

    @classmethod
    def problems(cls, config: Config) -> Iterator[str]:
        """What cannot work with this config, a clause each."""
        return iter(())

    def __call__(self, passes: Passes) -> Metrics:
        """Fill the parameters' ``grad``; return metrics (see :class:`TrainStep`)."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """State that a checkpoint must hold, changed in place.

        It gets its values back after a step that changes nothing, since a number was not finite.
        """
        return {}
