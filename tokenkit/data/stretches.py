"""Stretches of the data's first pass, for who must see each row once and in no order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tokenkit.batch import Batch, Sequences, StepBatch
from tokenkit.data.check import check_data
from tokenkit.data.collate import Collator, StepCollator
from tokenkit.data.loader import Slice, Steps, TrainLoader
from tokenkit.data.order import Order
from tokenkit.tokenizers import ByteifiedTokenizer, Reading

if TYPE_CHECKING:
    from tokenkit.config import Config

PAD_MULTIPLE = 8


class Stretch(NamedTuple):
    """Consecutive places of a source's first pass."""

    source: int
    places: range


class Stretches(Steps):
    """A stretch a step, read by one tokenizer, rows of like lengths together."""

    def __init__(
        self, order: Order, where: Slice, collate: Collator, stretches: Sequence[Stretch | None]
    ) -> None:
        super().__init__(order, where, StepCollator(collate), silent=0, by_length=False)
        self.collate, self.stretches = collate, stretches

    def make(self, number: int) -> StepBatch:
        stretch = self.stretches[number] if number < len(self.stretches) else None
        if stretch is None:
            return StepBatch([])
        rows, passed = self.order.first_pass(*stretch)
        whole = self.collate(rows)
        lengths = whole.student.mask.sum(1).numpy()
        longest = np.argsort(-lengths, kind="stable")
        size = self.where.micro_batch_size
        parts = [longest[at : at + size] for at in range(0, len(rows), size)]
        step = StepBatch([_part(whole, places, int(lengths[places[0]])) for places in parts])
        stats = {"rows": len(rows), "empty_rows": passed.empty, "bad_rows": passed.bad}
        step.micro_batches[0].stats = stats
        return step


def _part(batch: Batch, places: np.ndarray, longest: int) -> Batch:
    """Some rows of a batch, no wider than they need."""
    seq = batch.student
    width = min(seq.ids.shape[1], max(1, -(-longest // PAD_MULTIPLE)) * PAD_MULTIPLE)
    part = Sequences.of(seq.ids[places, :width], seq.mask[places, :width])
    where, keys = ([given[place] for place in places] for given in (batch.places, batch.keys))
    return Batch(part, places=where, keys=keys)


def build_stretches_loader(
    config: Config,
    tok: ByteifiedTokenizer,
    form: str,
    order: Order,
    stretches: Sequence[Stretch | None],
    dp_rank: int,
    dp_size: int,
) -> TrainLoader:
    """One rank's stretches, each a step; None is a step without rows.

    Args:
        tok: the only tokenizer, which reads ``training.max_teacher_length`` tokens of a row.
        form: Unicode form of the texts.
        order: with keys.

    Raises:
        DataError: if a row of a local file is bad (``data.check``).
    """
    length = config.training.max_teacher_length
    reading = Reading(config.chat.loss_on, config.chat.special_tokens)
    skips = config.data.on_bad_row == "skip"
    collate = Collator(tok, None, (), reading, length, length, skip_bad=skips, form=form)
    if config.data.check and not skips:
        check_data(config, collate.look)
    where = Slice(0, config.training.micro_batch_size, dp_rank, dp_size)
    dataset = Stretches(order, where, collate, stretches)
    return TrainLoader(dataset, config.data.num_workers)
