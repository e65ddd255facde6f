"""AdamW with per-pattern learning-rate scales and no decay on norms and biases."""

from __future__ import annotations

import re
from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tokenkit.config import Config
from tokenkit.config.schema import OptimizerConfig
from tokenkit.errors import ConfigError
from tokenkit.log import warn_once
from tokenkit.models.weights import plain_name
from tokenkit.ops.gradients import local_part
from tokenkit.training.low_precision_adamw import LowPrecisionAdamW, first_state
from tokenkit.training.lr_schedule import learning_rate


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by their plain names."""
    return {
        plain_name(name): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def learning_rate_scale(name: str, config: OptimizerConfig) -> float:
    """Multiplier of the first of ``optimizer.lr_scale_patterns`` found in ``name``, else 1."""
    for pattern, scale in zip(config.lr_scale_patterns, config.lr_scales, strict=True):
        if re.search(pattern, name):
            return scale
    return 1.0


def _check_patterns(model: nn.Module, config: OptimizerConfig) -> None:
    names = [plain_name(name) for name, _ in model.named_parameters()]
    trained = list(trainable_parameters(model))
    for pattern in config.lr_scale_patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ConfigError(
                f"optimizer.lr_scale_patterns: '{pattern}' matches no parameter; they have names "
                f"such as {', '.join(trained[:1] + trained[-1:])}"
            )
        if not any(re.search(pattern, name) for name in trained):
            warn_once(
                f"optimizer.lr_scale_patterns: '{pattern}' has no effect: what it matches is frozen"
            )


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, seed: int = 0
) -> torch.optim.AdamW | LowPrecisionAdamW:
    """AdamW over the trainable parameters; each group remembers its ``lr_scale``.

    On a GPU it is fused: only then can the device leave a step out, see :func:`step_unless`.

    Args:
        seed: of the bits that bf16 moments are rounded with.

    Raises:
        ConfigError: if a pattern of ``optimizer.lr_scale_patterns`` is found in no name.
    """
    _check_patterns(model, config)
    groups: dict[tuple, list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, parameter in trainable_parameters(model).items():
        decay = config.weight_decay if parameter.ndim >= 2 else 0.0
        # Multi-tensor kernels cannot mix parameters of different meshes in one group.
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        groups[learning_rate_scale(name, config), decay, mesh].append((name, parameter))
    listed = [
        {"params": named, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay, _), named in groups.items()
    ]
    betas = config.beta1, config.beta2
    if config.state_dtype == "bfloat16":
        return LowPrecisionAdamW(listed, config.lr, betas, config.eps, seed=seed)
    parameters = [parameter for named in groups.values() for _, parameter in named]
    fused = config.fused or any(p.device.type == "cuda" for p in parameters)
    optimizer = torch.optim.AdamW(listed, config.lr, betas, config.eps, fused=fused or None)
    for parameter in parameters:
        # Made now: a checkpoint may be loaded into it before the first step.
        device = parameter.device if fused else None
        optimizer.state[parameter] = first_state(parameter, torch.float32, device)
    return optimizer


@torch.no_grad()
def step_unless(optimizer: torch.optim.Optimizer, skipped: Tensor) -> None:
    """Step, or change nothing at all: no parameter, no moment, no counter.

    Args:
        skipped: 1 to change nothing, else 0; fp32, 0-d. On a GPU it is not read by the CPU.
    """
    fused = all(group.get("fused") for group in optimizer.param_groups)
    if fused or isinstance(optimizer, LowPrecisionAdamW):
        if fused:
            _lay_out_gradients(optimizer)
        optimizer.found_inf = skipped  # what runs on the device looks at it
        optimizer.step()
    elif not skipped:
        optimizer.step()


def _lay_out_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Lay gradients out in memory as their parameters are, where they are not.

    On a CPU the fused kernel pairs elements by their order in memory, whatever the strides say
    (torch 2.13); on a GPU it refuses others.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None:
                continue
            if local_part(gradient).stride() != local_part(parameter).stride():
                parameter.grad = torch.empty_like(parameter).copy_(gradient)


def scheduled_learning_rate(config: Config, step: int) -> float:
    """Learning rate of optimizer step number ``step`` (from 0), before per-group scales."""
    schedule, hypernet = config.lr_scheduler, config.hypernet
    return learning_rate(
        step,
        lr=config.optimizer.lr,
        steps=config.training.steps,
        warmup_steps=schedule.warmup_steps,
        decay=schedule.decay,
        prefix_steps=hypernet.identity_steps or schedule.prefix_steps,
        prefix_lr=hypernet.identity_lr if hypernet.identity_steps else schedule.prefix_lr,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every group's rate to ``lr`` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
