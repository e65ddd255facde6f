"""The stream of micro-batches of one rank: endless, in a fixed global order, resumable exactly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from tokenkit.data.batch import Batch
from tokenkit.data.collate import Collator
from tokenkit.data.mixing import Order, build_order
from tokenkit.data.rows import RowFormat, marked_text, plain_text
from tokenkit.data.sources import open_source
from tokenkit.errors import DataError
from tokenkit.tokenizers import ByteifiedTokenizer


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
    """A data error on its way from a worker to the training process."""

    message: str


class MicroBatches(IterableDataset):
    """A rank's micro-batches; of several workers each makes every n-th."""

    def __init__(
        self, order: Order, where: Slice, collate: Collator, row_format: RowFormat, first: int
    ) -> None:
        self.order, self.where, self.collate = order, where, collate
        self.row_format = row_format
        self.first = first
        self.done = 0  # micro-batches this worker has made

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]

    def make(self, number: int) -> Batch:
        rows = self.order.rows(self.where.positions(number))
        return self.collate([marked_text(row, where, self.row_format) for row, where in rows])

    def __iter__(self) -> Iterator[Batch | _Failure]:
        worker = get_worker_info()
        stride, offset = (1, 0) if worker is None else (worker.num_workers, worker.id)
        if worker is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        while True:
            number = self.first + offset + self.done * stride
            try:
                batch = self.make(number)
            except DataError as error:
                yield _Failure(str(error))
                return
            self.done += 1
            yield batch


def _identity(item: Any) -> Any:
    return item


class TrainLoader:
    """An endless iterator of micro-batches with a position that can be saved and restored."""

    def __init__(self, dataset: MicroBatches, num_workers: int) -> None:
        self.loader = StatefulDataLoader(
            dataset,
            batch_size=None,
            collate_fn=_identity,
            num_workers=num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
        )

    def __iter__(self) -> Iterator[Batch]:
        for item in self.loader:
            if isinstance(item, _Failure):
                raise DataError(item.message)
            yield item

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loader.load_state_dict(state)


def row_format_of(config: Any) -> RowFormat:
    return RowFormat(config.data.text_field, config.data.messages_field, config.chat.text_mode)


def build_train_loader(
    config: Any,
    student_tok: ByteifiedTokenizer,
    teacher_tok: ByteifiedTokenizer | None,
    kinds: tuple[str, ...],
    dp_rank: int,
    dp_size: int,
    pair_bias: Any = None,
    start_step: int = 0,
) -> TrainLoader:
    """Micro-batches of data-parallel rank ``dp_rank``, from optimizer step ``start_step`` on.

    Raises:
        DataError: if a source is missing or unreadable (bad rows are refused when reached).
    """
    training = config.training
    where = Slice(training.batch_size, training.micro_batch_size, dp_rank, dp_size)
    collate = Collator(
        student_tok,
        teacher_tok,
        kinds,
        config.chat.loss_on,
        training.max_student_length,
        training.max_teacher_length,
        pair_bias,
        config.alm.bias_threshold,
    )
    dataset = MicroBatches(
        build_order(config), where, collate, row_format_of(config), start_step * where.accumulation
    )
    return TrainLoader(dataset, config.data.num_workers)


def load_validation_texts(config: Any) -> list[str]:
    """The first ``eval.max_documents`` non-empty texts of ``data.validation``, without markers."""
    texts: list[str] = []
    for name in config.data.validation:
        source = open_source(name, config.data.split)
        for index in range(len(source)):
            text = plain_text(*source.read(index), row_format_of(config))
            if text:
                texts.append(text)
            if len(texts) == config.eval.max_documents:
                return texts
    return texts
