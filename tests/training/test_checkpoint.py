"""What a checkpoint holds: all that training changes, and constants that it was begun with."""

from __future__ import annotations

import torch
from torch import nn

from tokenkit.training.checkpoint import tensors_to_save


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trained, self.frozen = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)
        self.frozen.requires_grad_(False)
        self.register_buffer("constant", torch.ones(3))
        self.register_buffer("table", torch.ones(3), persistent=False)


def test_names():
    model = Model()
    assert set(tensors_to_save(model, None)) == {"model.trained.weight", "model.constant"}
    optimizer = torch.optim.AdamW(model.trained.parameters())
    moments = {f"optimizer.trained.weight.{m}" for m in ("step", "exp_avg", "exp_avg_sq")}
    assert set(tensors_to_save(model, optimizer)) == moments | set(tensors_to_save(model, None))
