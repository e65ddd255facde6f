"""The stream of one rank's optimizer steps: endless, in a fixed global order, found by number."""

from __future__ import annotations

import gc
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from tokenkit.batch import StepBatch, mapped
from tokenkit.config.settle import rows_at_once
from tokenkit.data.check import check_data
from tokenkit.data.collate import Collator, KnownScores, StepCollator
from tokenkit.data.dealing import Slice
from tokenkit.data.mixing import build_order
from tokenkit.data.order import Order, joined
from tokenkit.data.sampled import SampledCollator, TokenizerStream
from tokenkit.data.streamed import StreamedOrder
from tokenkit.errors import ReadError, TokenkitError
from tokenkit.log import logger
from tokenkit.processes import end_with_parent
from tokenkit.tokenizers import ByteifiedTokenizer, InputExpander, Reading

if TYPE_CHECKING:
    from tokenkit.config import Config


@dataclass
class _Failure:
    """An error for the user, on its way from a worker to the training process.

    Raised in a worker, it would arrive with the worker's traceback for a message.
    """

    error: type[TokenkitError]
    message: str


@dataclass
class _Packed:
    """A step on its way from a worker, as numpy arrays.

    Torch hands every tensor over by a file descriptor of its own; a step of many micro-batches
    has more tensors than a process may have open files.
    """

    step: StepBatch

    @classmethod
    def of(cls, step: StepBatch) -> _Packed:
        return cls(mapped(step, lambda tensor: tensor.numpy()))

    def tensors(self) -> StepBatch:
        return mapped(self.step, torch.from_numpy, np.ndarray)

    def pin_memory(self) -> StepBatch:
        """Called by the data loader."""
        return self.tensors().pin_memory()


class Steps(IterableDataset):
    """A rank's optimizer steps from ``first`` on; of n workers, each makes every n-th.

    Args:
        silent: steps at the beginning that read no texts.
        by_length: how rows are dealt, see :class:`Slice`.
    """

    def __init__(
        self,
        order: Order,
        where: Slice,
        collators: StepCollator | SampledCollator,
        silent: int,
        by_length: bool,
    ) -> None:
        self.order, self.where, self.collators, self.silent = order, where, collators, silent
        self.by_length = by_length
        self.first = 0

    def make(self, number: int) -> StepBatch:
        step = number - self.silent
        if step < 0:
            return StepBatch([])
        collate, vocabulary = self.collators.at(step)
        made = StepBatch([], vocabulary)
        dealt = self._deal(step)
        mine = sorted(position for positions in dealt for position in positions)
        found = dict(zip(mine, self.order.found(mine), strict=True))
        for positions in dealt:
            rows, passed = joined([found[position] for position in positions])
            batch = collate(rows)
            batch.stats["empty_rows"] = passed.empty
            batch.stats["bad_rows"] += passed.bad
            made.micro_batches.append(batch)
        return made

    def _deal(self, step: int) -> Sequence[Sequence[int]]:
        """Positions of each micro-batch."""
        if not self.by_length:
            return self.where.in_order(step)
        return self.where.by_length(step, self.order.sizes(self.where.step(step)))

    def __iter__(self) -> Iterator[StepBatch | _Packed | _Failure]:
        worker = get_worker_info()
        stride, offset = (1, 0) if worker is None else (worker.num_workers, worker.id)
        if worker is not None:  # threads of the tokenizer would hang in a forked process
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            for ending in (signal.SIGINT, signal.SIGTERM):  # sent to all, meant for the rank
                signal.signal(ending, signal.SIG_IGN)
        for number in count(self.first + offset, stride):
            item: StepBatch | _Packed | _Failure
            try:
                step = self.make(number)
                item = step if worker is None else _Packed.of(step)
            except TokenkitError as error:
                item = _Failure(type(error), str(error))
            except OSError as error:
                item = _Failure(ReadError, f"data cannot be read any more: {error}")
            if isinstance(item, _Failure):
                break
            yield item
        while True:  # until somebody looks; the end of the stream would be something else
            yield item


def _identity(item: Any) -> Any:
    return item


def _end_with_rank(_worker: int) -> None:
    gc.enable()  # the rank collects at fixed steps, which a worker has not
    end_with_parent()


class TrainLoader:
    """An endless iterator of optimizer steps, from step 0 or the one that was sought.

    Positions are a function of the step, whatever the numbers of ranks, workers and micro-batches.
    """

    def __init__(self, dataset: Steps, num_workers: int) -> None:
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
                worker_init_fn=_end_with_rank,
            )
        self._rows, self._empty, self._bad = 0, 0, 0  # read in the first pass
        self._in_first_pass = dataset.where.dp_rank == 0

    def seek(self, step: int) -> None:
        """Begin the next iteration with optimizer step number ``step``."""
        self.close()
        self.dataset.first = step
        if step > self.dataset.silent:
            self._in_first_pass = False

    def __iter__(self) -> Iterator[StepBatch]:
        for item in self._items():
            if isinstance(item, _Failure):
                self.close()
                raise item.error(item.message)
            if isinstance(item, _Packed):
                item = item.tensors()
            if self._in_first_pass and item.micro_batches:
                self._count_empty(item.stats)
            yield item

    def _items(self) -> Iterator[Any]:
        try:
            yield from self.loader
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ReadError(
                f"a data worker was killed ({str(error).splitlines()[0]}): out of memory? lower "
                "data.num_workers, then run again to go on"
            ) from error

    def close(self) -> None:
        """End the workers now."""
        shut_down = getattr(self.loader._iterator, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()
        self.loader._iterator = None

    def _count_empty(self, stats: dict[str, int]) -> None:
        """Warn once, at the end of the first pass; empty rows of streams are reported by them."""
        length, where = self.dataset.order.pass_length, self.dataset.where
        self._rows += stats["rows"]
        self._empty += stats["empty_rows"]
        self._bad += stats["bad_rows"]
        if length is None or self._rows * where.dp_size >= length:
            self._in_first_pass = False
            share = "" if where.dp_size == 1 else " that this rank read"
            for kind, number in (("empty", self._empty), ("bad", self._bad)):
                if length is not None and number:
                    logger.warning(
                        f"data.train: {number:,} of the first {self._rows:,} rows{share} are "
                        f"{kind} and were skipped"
                    )


def build_train_loader(
    config: Config,
    student_tok: ByteifiedTokenizer,
    teacher_tok: ByteifiedTokenizer | None,
    kinds: tuple[str, ...],
    dp_rank: int,
    dp_size: int,
    pair_bias: Any = None,
    source_rows: int = 0,
    expander: InputExpander | None = None,
    pairings: Mapping[str, Callable] | None = None,
    known: KnownScores | None = None,
) -> TrainLoader:
    """The optimizer steps of data-parallel rank ``dp_rank``; those of the identity phase are empty.

    Which rows a step has does not depend on ``dp_size``, ``micro_batch_size`` or ``num_workers``.
    Where there is a process group, all ranks must call.

    Args:
        student_tok: with ``tokenizer_sampler.enable``, what sampled tokens are spelt with.
        source_rows: rows of the matrices that belong to it.
        expander: of the student's ids, where it reads a second one at each position.
        pairings: what losses pair of both sides, see :func:`tokenkit.losses.pairings`.
        known: what a teacher said of all rows, which comes with the batches.

    Raises:
        DataError: if a source is missing or unreadable, or a row is bad (``data.check``; what
            it does not see is refused when reached).
    """
    training = config.training
    where = Slice(training.batch_size, rows_at_once(config, dp_size), dp_rank, dp_size)
    collate = Collator(
        student_tok,
        teacher_tok,
        kinds,
        Reading(config.chat.loss_on, config.chat.special_tokens),
        training.max_student_length,
        training.max_teacher_length,
        pair_bias,
        config.alm.bias_threshold,
        expander,
        config.data.on_bad_row == "skip",
        pairings or {},
        config.data.pad_multiple,
    )
    collators: StepCollator | SampledCollator
    if config.data.check and config.data.on_bad_row == "error":
        check_data(config, collate.look)
    collate.known = known  # rows that were only looked at stand nowhere
    order = build_order(config, keyed=known is not None)
    if isinstance(order, StreamedOrder):
        order.announces = dp_rank == 0
    if config.tokenizer_sampler.enable:
        # An order of its own: a stream would be read back and forth.
        tokenizers = TokenizerStream(config, student_tok, source_rows, build_order(config))
        collators = SampledCollator(collate, tokenizers)
    else:
        collators = StepCollator(collate)
    by_length = config.data.deal == "length" and where.accumulation * dp_size > 1
    dataset = Steps(order, where, collators, config.hypernet.identity_steps, by_length)
    return TrainLoader(dataset, config.data.num_workers)
