"""Which rank holds what: degrees of parallelism, and what follows from them for one rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenkit.config import Config, settle
from tokenkit.config.validate_layout import check_parallelism
from tokenkit.errors import ConfigError


class LayoutError(ConfigError):
    """A layout that models, ranks or batch cannot be divided by; another one may do."""


@dataclass(frozen=True)
class Degrees:
    """Ranks = replicate × shard × tp, of one model.

    Attributes:
        shard: ranks that cut its weights among them (a context's are some of these).
        tp: ranks that split each matrix.
    """

    replicate: int
    shard: int
    tp: int

    def is_wrapped(self, config: Config) -> bool:
        """Whether FSDP holds the model (see ``parallelisms``): one fp32 rank needs none."""
        return self.replicate * self.shard > 1 or config.training.dtype != "float32"


@dataclass(frozen=True)
class Layout:
    """Ranks = replicate × shard × tp × context.

    Attributes:
        micro_batch_size: rows a rank and forward pass.
        recompute: ``activation_checkpoint.mode``.
        context: ranks that share the tokens of their rows.
        teacher: degrees of the teacher's own; None: it lies as the student does.
        teacher_rows: ``teacher.micro_batch_size``; 0: the student's.
    """

    replicate: int
    shard: int
    tp: int
    micro_batch_size: int
    recompute: str
    context: int = 1
    teacher: Degrees | None = None
    teacher_rows: int = 0

    @classmethod
    def of(cls, config: Config, world_size: int) -> Layout:
        """The config's own.

        Raises:
            LayoutError: if it does not divide the ranks, or the batch.
        """
        config = config.copy()
        settle(config, world_size)
        for problem in check_parallelism(config, world_size):
            raise LayoutError(problem)
        wish, own = config.parallelism, config.teacher.parallelism
        replicate, tp = wish.data_parallel_replicate_degree, wish.tensor_parallel_degree
        context, teacher = wish.context_parallel_degree, None
        if own != type(own)():
            copies = own.data_parallel_replicate_degree or 1
            split = own.tensor_parallel_degree or tp * context
            teacher = Degrees(copies, world_size // (copies * split), split)
        return cls(
            replicate, world_size // (replicate * tp * context), tp,
            config.training.micro_batch_size, config.activation_checkpoint.mode, context, teacher,
            config.teacher.micro_batch_size,
        )  # fmt: skip

    @property
    def data_parallel(self) -> int:
        return self.replicate * self.shard

    @property
    def same_rows(self) -> int:
        """Ranks that see the same rows."""
        return self.tp * self.context

    @property
    def world_size(self) -> int:
        return self.data_parallel * self.same_rows

    @property
    def student_degrees(self) -> Degrees:
        return Degrees(self.replicate, self.shard * self.context, self.tp)

    @property
    def teacher_degrees(self) -> Degrees:
        return self.teacher or self.student_degrees

    @property
    def teacher_context(self) -> int:
        """Ranks that share the tokens of the teacher's rows."""
        return self.context if self.teacher is None else 1

    @property
    def rows_together(self) -> int:
        """Ranks with different rows that split the teacher's matrices; 1: none."""
        return 1 if self.teacher is None else self.teacher.tp // self.same_rows

    def micro_batches(self, config: Config) -> int:
        """Of a rank and step.

        Raises:
            LayoutError: if the batch cannot be divided so.
        """
        unit = self.micro_batch_size * self.data_parallel
        if config.training.batch_size % unit:
            raise LayoutError(
                f"training.batch_size = {config.training.batch_size} is not divisible by "
                f"micro_batch_size ({self.micro_batch_size}) x data-parallel ranks "
                f"({self.data_parallel}) = {unit}"
            )
        return config.training.batch_size // unit

    def joined(self, config: Config) -> int:
        """Micro-batches that one pass of the teacher reads."""
        wished = max(1, self.teacher_rows // self.micro_batch_size)
        return min(wished, self.micro_batches(config))

    def settings(self) -> dict[str, Any]:
        """As keys of a config."""
        own = self.teacher
        copies = own.replicate if own and own.replicate > 1 else 0
        return {
            "training.micro_batch_size": self.micro_batch_size,
            "parallelism.data_parallel_replicate_degree": self.replicate,
            "parallelism.data_parallel_shard_degree": self.shard,
            "parallelism.tensor_parallel_degree": self.tp,
            "parallelism.context_parallel_degree": self.context,
            "activation_checkpoint.mode": self.recompute,
            "teacher.micro_batch_size": self.teacher_rows,
            "teacher.parallelism.data_parallel_replicate_degree": copies,
            "teacher.parallelism.data_parallel_shard_degree": own.shard if own else -1,
            "teacher.parallelism.tensor_parallel_degree": own.tp if own else 0,
        }

    def applied(self, config: Config) -> Config:
        """A copy of a config with this layout."""
        made = config.copy()
        for name, value in self.settings().items():
            section, key = section_of(made, name)
            setattr(section, key, value)
        return made


def section_of(config: Config, name: str) -> tuple[Any, str]:
    """The section of a dotted key, and the key in it."""
    found: Any = config
    *sections, key = name.split(".")
    for section in sections:
        found = getattr(found, section)
    return found, key
