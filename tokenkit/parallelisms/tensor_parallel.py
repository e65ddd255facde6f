"""Tensor parallelism: split attention, MLP and the vocabulary's rows over the ``tp`` ranks.

Hidden states between blocks are replicated.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from tokenkit.errors import ConfigError
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.lora import LoRALinear
from tokenkit.parallelisms.vocabulary_rows import shard_rows


def _layer_plan(layer: nn.Module, plan: dict[str, str]) -> dict[str, object]:
    """Parallel style per module name; of a LoRA layer, the base and one of its factors split."""
    styles: dict[str, object] = {}
    for name, kind in plan.items():
        style = ColwiseParallel if kind == "colwise" else RowwiseParallel
        if isinstance(layer.get_submodule(name), LoRALinear):
            styles[f"{name}.base"] = style()
            factor = "lora_b" if kind == "colwise" else "lora_a"
            styles[f"{name}.{factor}"] = style()
        else:
            styles[name] = style()
    return styles


def _all_features(output: Tensor, mesh: DeviceMesh) -> Tensor:
    """A projection's features, of which each rank computes some."""
    if not isinstance(output, DTensor):
        output = DTensor.from_local(output, mesh, [Shard(-1)], run_check=False)
    return output.full_tensor()


def apply_tensor_parallel(model: CausalLM, tp_mesh: DeviceMesh) -> None:
    """Split every layer's projections by the family's plan, and the vocabulary by rows.

    Predicted vocabularies are whole on every rank.

    Raises:
        ConfigError: if the family has no plan or its heads do not divide by the degree.
    """
    config, degree = model.backbone.config, tp_mesh.size()
    plan = model.architecture.tensor_parallel_plan
    if not plan:
        raise ConfigError(
            f"parallelism.tensor_parallel_degree = {degree}: model_type '{config.model_type}' has "
            "no tensor-parallel plan; use 1"
        )
    for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(config, key) % degree:
            raise ConfigError(
                f"parallelism.tensor_parallel_degree = {degree} does not divide the model's "
                f"{key} = {getattr(config, key)}"
            )
    model.join_features = partial(_all_features, mesh=tp_mesh)
    if model.vocabulary.rows_are_parameters:
        shard_rows(model.vocabulary, tp_mesh)
    for layer in model.layers:
        parallelize_module(layer, tp_mesh, _layer_plan(layer, plan))
