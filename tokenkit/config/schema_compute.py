"""``[parallelism]``, ``[activation_checkpoint]``, ``[compile]``: how a step is computed."""

from __future__ import annotations

from dataclasses import dataclass

from tokenkit.config.key import key


@dataclass
class ParallelismConfig:
    """Ranks = replicate x shard x context-parallel x tensor-parallel degree."""

    data_parallel_replicate_degree: int = key(1, "copies of the model (HSDP)", minimum=1)
    data_parallel_shard_degree: int = key(
        -1, "ranks that share one copy (FSDP; -1: all that remain)", minimum=-1
    )
    tensor_parallel_degree: int = key(1, "ranks that split each matrix", minimum=1)
    sequence_parallel: bool = key(
        False, "tensor-parallel ranks split the tokens between attention and MLP blocks, too"
    )
    context_parallel_degree: int = key(
        1, "ranks that split the tokens of their rows, for long texts", minimum=1
    )
    frozen: str = key(
        "auto",
        "weights that are not trained are shared out like the others (sharded), or whole on every "
        "rank and never sent (replicated; auto: if they fit well)",
        choices=("auto", "sharded", "replicated"),
    )
    reshard_after_forward: bool = key(
        True, "let go of gathered layers until the backward pass (false: faster, more memory)"
    )
    prefetch_layers: int = key(1, "layers to gather ahead", minimum=1)


@dataclass
class ActivationCheckpointConfig:
    """Recompute activations in the backward pass to save memory."""

    mode: str = key(
        "none", "what to recompute", choices=("none", "full", "every_n", "selective_ops")
    )
    every_n: int = key(2, "one layer in n (mode every_n)", minimum=1)


@dataclass
class CompileConfig:
    """torch.compile, layer by layer."""

    enable: bool = key(False, "compile the decoder layers")
    backend: str = key("inductor", "backend of torch.compile")
    dynamic: bool = key(
        True,
        "one graph for all lengths; false: one for each, which is faster but for its start (then "
        "set data.pad_multiple to 64 or 128)",
    )
