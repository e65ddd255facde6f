"""The stream of micro-batches of one rank: endless, in a fixed global order, resumable exactly."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from tokenkit.batch import Batch
from tokenkit.data.collate import Collator, PlainCollator
from tokenkit.data.mixing import Order, StreamedOrder, build_order
from tokenkit.data.sampled import SampledCollator, TokenizerStream
from tokenkit.errors import DataError, TokenkitError
from tokenkit.log import logger
from tokenkit.tokenizers import ByteifiedTokenizer, Reading, Row

if TYPE_CHECKING:
    from tokenkit.config import Config


@dataclass(frozen=True)
class Slice:
    """Which rows of the global order a rank's micro-batches are.

    Micro-batch m belongs to optimizer step m // accumulation, and all ranks' micro-batches of a
    step are together that step's ``batch_size`` consecutive rows.
    """

    batch_size: int
    micro_batch_size: int
    dp_rank: int
    dp_size: int

    @property
    def accumulation(self) -> int:
        return self.batch_size // (self.micro_batch_size * self.dp_size)

    def positions(self, number: int) -> range:
        """Positions of micro-batch ``number``."""
        step, part = divmod(number, self.accumulation)
        part = part * self.dp_size + self.dp_rank
        begin = step * self.batch_size + part * self.micro_batch_size
        return range(begin, begin + self.micro_batch_size)


@dataclass
class _Failure:
    """An error for the user, on its way from a worker to the training process.

    Raised in a worker, it would arrive with the worker's traceback for a message.
    """

    error: type[TokenkitError]
    message: str


class MicroBatches(IterableDataset):
    """A rank's micro-batches; of n workers, each makes every n-th."""

    def __init__(
        self, order: Order, where: Slice, collate: Callable[[Sequence[Row], int], Batch], first: int
    ) -> None:
        """``collate`` is given rows and the number of their optimizer step."""
        self.order, self.where, self.collate = order, where, collate
        self.first = first  # micro-batch to begin with
        self.done = 0  # micro-batches this worker has made since

    def state_dict(self) -> dict[str, int]:
        return {"first": self.first, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.first, self.done = state["first"], state["done"]

    def make(self, number: int) -> Batch:
        rows, empty = self.order.rows(self.where.positions(number))
        batch = self.collate(rows, number // self.where.accumulation)
        batch.stats["empty_rows"] = empty
        return batch

    def __iter__(self) -> Iterator[Batch | _Failure]:
        worker = get_worker_info()
        stride, offset = (1, 0) if worker is None else (worker.num_workers, worker.id)
        if worker is not None:  # threads of the tokenizer would hang in a forked process
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        while True:
            try:
                item = self.make(self.first + offset + self.done * stride)
            except TokenkitError as error:
                item = _Failure(type(error), str(error))
            except OSError as error:
                item = _Failure(DataError, f"data cannot be read any more: {error}")
            if isinstance(item, _Failure):
                break
            self.done += 1
            yield item
        while True:  # until somebody looks; the end of the stream would be something else
            yield item


def _identity(item: Any) -> Any:
    return item


class TrainLoader:
    """An endless iterator of micro-batches with a position that can be saved and restored.

    A second iteration goes on where the first one stopped. The position is valid for the same
    numbers of ranks, workers and accumulation steps; under others, build a loader with the
    ``start_step`` wanted.
    """

    def __init__(self, dataset: MicroBatches, num_workers: int) -> None:
        self.dataset = dataset
        if num_workers:  # before the fork, else the tokenizer warns in every worker
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # by torchdata itself
            self.loader = StatefulDataLoader(
                dataset,
                batch_size=None,
                collate_fn=_identity,
                num_workers=num_workers,
                pin_memory=torch.cuda.is_available(),
                persistent_workers=num_workers > 0,
            )
        self._rows, self._empty = 0, 0  # read in the first pass
        self._in_first_pass = dataset.first == 0 and dataset.where.dp_rank == 0

    def __iter__(self) -> Iterator[Batch]:
        for item in self.loader:
            if isinstance(item, _Failure):
                self.close()
                raise item.error(item.message)
            if self._in_first_pass:
                self._count_empty(item)
            yield item

    def close(self) -> None:
        """End the workers now; left alone, they outlive a killed process by some seconds."""
        shut_down = getattr(self.loader._iterator, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()
        self.loader._iterator = None

    def _count_empty(self, batch: Batch) -> None:
        """Warn once, at the end of the first pass; empty rows of streams are reported by them."""
        length, where = self.dataset.order.pass_length, self.dataset.where
        self._rows += batch.stats["rows"]
        self._empty += batch.stats["empty_rows"]
        if length is None or self._rows * where.dp_size >= length:
            self._in_first_pass = False
            if length is not None and self._empty:
                share = "" if where.dp_size == 1 else " that this rank read"
                logger.warning(
                    f"data.train: {self._empty:,} of the first {self._rows:,} rows{share} are "
                    "empty and were skipped"
                )

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._in_first_pass = False
        self.loader.load_state_dict(state)


def build_train_loader(
    config: Config,
    student_tok: ByteifiedTokenizer,
    teacher_tok: ByteifiedTokenizer | None,
    kinds: tuple[str, ...],
    dp_rank: int,
    dp_size: int,
    pair_bias: Any = None,
    start_step: int = 0,
    source_rows: int = 0,
) -> TrainLoader:
    """Micro-batches of data-parallel rank ``dp_rank``, from optimizer step ``start_step`` on.

    The rows of a step do not depend on ``dp_size``, ``micro_batch_size`` or ``num_workers``.

    Args:
        student_tok: with ``tokenizer_sampler.enable``, what sampled tokens are spelt with.
        source_rows: rows of the matrices that belong to it.

    Raises:
        DataError: if a source is missing or unreadable (bad rows are refused when reached).
    """
    training = config.training
    where = Slice(training.batch_size, training.micro_batch_size, dp_rank, dp_size)
    collate = Collator(
        student_tok,
        teacher_tok,
        kinds,
        Reading(config.chat.loss_on, config.chat.special_tokens),
        training.max_student_length,
        training.max_teacher_length,
        pair_bias,
        config.alm.bias_threshold,
    )
    order = build_order(config)
    if isinstance(order, StreamedOrder):
        order.announces = dp_rank == 0
    if config.tokenizer_sampler.enable:
        # An order of its own: a stream would be read back and forth.
        tokenizers = TokenizerStream(config, student_tok, source_rows, build_order(config))
        collate_step = SampledCollator(collate, tokenizers)
    else:
        collate_step = PlainCollator(collate)
    dataset = MicroBatches(order, where, collate_step, start_step * where.accumulation)
    return TrainLoader(dataset, config.data.num_workers)
