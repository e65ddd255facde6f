"""Which rank holds what: degrees of parallelism, and what follows from them for one rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenkit.config import Config, rows_at_once
from tokenkit.errors import ConfigError


class LayoutError(ConfigError):
    """A layout that models, ranks or batch cannot be divided by; another one may do."""


@dataclass(frozen=True)
class Layout:
    """Ranks = replicate × shard × tp.

    Attributes:
        micro_batch_size: rows a rank and forward pass.
        recompute: ``activation_checkpoint.mode``.
    """

    replicate: int
    shard: int
    tp: int
    micro_batch_size: int
    recompute: str

    @classmethod
    def of(cls, config: Config, world_size: int) -> Layout:
        """The config's own.

        Raises:
            LayoutError: if it does not divide the ranks.
        """
        wish = config.parallelism
        if wish.context_parallel_degree > 1:
            raise ConfigError(
                f"parallelism.context_parallel_degree = {wish.context_parallel_degree}: plans are "
                "made for 1 only"
            )
        if config.teacher.parallelism != type(config.teacher.parallelism)():
            raise ConfigError(
                "teacher.parallelism: plans are made for a teacher that lies as the student does; "
                "leave the section out to plan"
            )
        replicate, tp = wish.data_parallel_replicate_degree, wish.tensor_parallel_degree
        shard = wish.data_parallel_shard_degree
        if shard == -1:
            shard = max(1, world_size // (replicate * tp))
        if replicate * shard * tp != world_size:
            raise LayoutError(
                f"--world-size {world_size} is not replicate {replicate} x shard {shard} x "
                f"tensor parallel {tp}: change [parallelism] or the number of ranks"
            )
        mode = config.activation_checkpoint.mode
        rows = rows_at_once(config, replicate * shard)
        return cls(replicate, shard, tp, rows, mode)

    @property
    def data_parallel(self) -> int:
        return self.replicate * self.shard

    @property
    def world_size(self) -> int:
        return self.data_parallel * self.tp

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

    def is_wrapped(self, config: Config) -> bool:
        """Whether FSDP holds the models (see ``parallelisms``): one fp32 rank needs none."""
        return self.data_parallel > 1 or config.training.dtype != "float32"

    def settings(self) -> dict[str, Any]:
        """As keys of a config."""
        return {
            "training.micro_batch_size": self.micro_batch_size,
            "parallelism.data_parallel_replicate_degree": self.replicate,
            "parallelism.data_parallel_shard_degree": self.shard,
            "parallelism.tensor_parallel_degree": self.tp,
            "activation_checkpoint.mode": self.recompute,
        }

    def applied(self, config: Config) -> Config:
        """A copy of a config with this layout."""
        made = config.copy()
        for name, value in self.settings().items():
            section, key = name.split(".")
            setattr(getattr(made, section), key, value)
        return made
