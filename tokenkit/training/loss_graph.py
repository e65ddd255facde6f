"""A micro-batch's losses, cut from the student's graph so that each one's gradient can be seen."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.outputs import Outputs
from tokenkit.parallelisms.fsdp import gather_for_losses


@contextmanager
def gradients_from(layer: torch.nn.Module) -> Iterator[None]:
    """A forward pass inside records gradients from ``layer`` on only: cheap in time and memory."""

    def start_recording(*_: object) -> None:
        torch.set_grad_enabled(True)

    # Before all other hooks: what they make of inputs and parameters is recorded, too.
    hook = layer.register_forward_pre_hook(start_recording, prepend=True)
    try:
        with torch.no_grad():
            yield
    finally:
        hook.remove()


class LossGraph:
    """The student's outputs as leaves.

    Losses are computed on the leaves. A gradient on leaves is cheap to get for every loss; going
    on into the model happens once, for the sum.

    Attributes:
        outputs: what the losses read.
    """

    def __init__(self, student: CausalLM, output: Outputs, needs: Collection[str]) -> None:
        self.student, self.output = student, output
        # Now, while FSDP has the layer gathered: the first gradient makes it let go of it.
        last_layer = student.layers[-1].parameters()
        self._last_parameters = [p for p in last_layer if p.requires_grad]
        self._leaves: dict[int, tuple[Tensor, Tensor]] = {}  # of the tensor: tensor and leaf
        self.outputs = output._replace(
            token_logprob=self._leaf(output.token_logprob),
            boundary_logprob=self._leaf(output.boundary_logprob),
            embeddings=self._leaf(output.embeddings),
            scores=None,  # a gradient on them would go past the leaves
            hidden=self._leaf(output.hidden) if "hidden" in needs else None,
            hidden_states=tuple(map(self._leaf, output.hidden_states)),
            qkv=tuple(map(self._leaf, output.qkv)),
        )

    def _leaf(self, tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        if id(tensor) not in self._leaves:
            leaf = tensor.detach().requires_grad_(tensor.requires_grad)
            self._leaves[id(tensor)] = tensor, leaf
        return self._leaves[id(tensor)][1]

    def gradients(self, value: Tensor) -> dict[int, Tensor]:
        """A loss's gradients on the leaves it depends on, by ``id`` of the model's tensor."""
        known = [(key, leaf) for key, (_, leaf) in self._leaves.items() if leaf.requires_grad]
        leaves = [leaf for _, leaf in known]
        found = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        pairs = zip(known, found, strict=True)
        return {key: grad for (key, _), grad in pairs if grad is not None}

    def last_layer_gradients(self, gradients: dict[int, Tensor]) -> list[Tensor]:
        """A loss's gradients on the last layer's trainable parameters, this rank's rows only.

        From the scores to the hidden states they are linear combinations of kept directions, so
        only the last layer is run backward.
        """
        output = self.output
        hidden = gradients.get(id(output.hidden))
        on_token = gradients.get(id(output.token_logprob))
        on_boundary = gradients.get(id(output.boundary_logprob))
        if on_token is not None or on_boundary is not None:
            found = output.hidden_gradient(on_token, on_boundary)
            hidden = found if hidden is None else found + hidden
        grads = [(output.hidden, hidden)]
        if output.qkv:
            grads.append((output.qkv[-1], gradients.get(id(output.qkv[-1]))))
        grads = [(tensor, grad.to(tensor.dtype)) for tensor, grad in grads if grad is not None]
        if not grads:
            return [torch.zeros_like(p) for p in self._last_parameters]
        tensors, given = zip(*grads, strict=True)
        return list(
            torch.autograd.grad(
                tensors,
                self._last_parameters,
                given,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )

    def backward(self, value: Tensor, retain: bool = False) -> None:
        """Add the gradients of ``value`` to all parameters; ``retain`` the model's graph."""
        gather_for_losses(self.student)
        value.backward()
        used = [(t, leaf) for t, leaf in self._leaves.values() if leaf.grad is not None]
        pairs = [(t, leaf.grad) for t, leaf in used]
        if not pairs and isinstance(self.student, FSDPModule):
            # FSDP reduces gradients, those of matrices too, only as one passes the model.
            pairs = [(self.output.hidden, torch.zeros_like(self.output.hidden))]
        if pairs:
            tensors, grads = zip(*pairs, strict=True)
            torch.autograd.backward(tensors, grads, retain_graph=retain)
        for _, leaf in used:
            leaf.grad = None
