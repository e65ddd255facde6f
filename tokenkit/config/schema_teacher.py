"""The sections of the teacher."""

from __future__ import annotations

from dataclasses import dataclass, field

from tokenkit.config.key import key


@dataclass
class TeacherParallelismConfig:
    """The teacher's own layout of the same ranks; all at their defaults: the student's."""

    data_parallel_replicate_degree: int = key(
        0,
        "copies of the teacher (HSDP; 0: as the student, or 1 with degrees of its own)",
        minimum=0,
    )
    data_parallel_shard_degree: int = key(
        -1, "ranks that share one copy (FSDP; -1: all that remain)", minimum=-1
    )
    tensor_parallel_degree: int = key(
        0,
        "ranks that split each matrix and read their rows together (0: as the student)",
        minimum=0,
    )


@dataclass
class TeacherConfig:
    """The model to learn from; without model and cache, the student as it was at the start."""

    model: str = key("", "hub id or local folder (empty: self-distillation)", path=True)
    tokenizer: str = key("", "the teacher's tokenizer spec (a cache knows it)", path=True)
    cache: str = key("", "folder of precomputed teacher scores, instead of a model", path=True)
    attn_implementation: str = key("", "attention of transformers (empty: the model's default)")
    trust_remote_code: bool = key(False, "run Python code that comes with the model")
    micro_batch_size: int = key(
        0,
        "sequences per forward pass of the teacher, which joins the step's micro-batches "
        "(0: as the student's)",
        minimum=0,
        maximum=2**16,
    )
    parallelism: TeacherParallelismConfig = field(default_factory=TeacherParallelismConfig)
