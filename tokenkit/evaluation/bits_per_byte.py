"""Bits per byte: how well a model predicts text, comparable between tokenizers.

Documents are encoded as in training; special tokens that they spell out are text. Every document
follows a context token (BOS where texts begin with one, else EOS, which ends the document before),
so that every byte of it is predicted by every model. Documents longer than a window are read in
windows that overlap by half, and each token is scored once, in the window that gives it most
context. Windows are cut by bytes: a byte-level model sees as much text as any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tokenkit.batch import Sequences
from tokenkit.config import Config
from tokenkit.errors import DataError, ModelError
from tokenkit.log import logger
from tokenkit.models.outputs import Outputs
from tokenkit.parallelisms import Parallel
from tokenkit.tokenizers import ByteifiedTokenizer, Document, EncodedRow, encode_rows
from tokenkit.tokenizers.roles import context_id


@dataclass(frozen=True)
class Window:
    """A piece of a document; tokens from ``first`` on are scored here."""

    ids: np.ndarray  # [n]
    first: int


def windows_of(ids: np.ndarray, ends: np.ndarray, context: int, max_bytes: int) -> list[Window]:
    """Cut a document into windows of about ``max_bytes``, each after the context token.

    Args:
        ids: ``[T]``, without the context token.
        ends: ``[T]`` bytes of the document up to the end of each token.
    """
    windows: list[Window] = []
    scored = 0
    while scored < len(ids):
        limit = max_bytes if not windows else int(ends[scored - 1]) + max(1, max_bytes // 2)
        end = max(scored + 1, int(np.searchsorted(ends, limit, side="right")))
        # A token longer than a window still is one.
        begin = int(np.searchsorted(ends, int(ends[end - 1]) - max_bytes, side="right"))
        begin = min(begin, scored)
        windows.append(Window(np.append(context, ids[begin:end]), scored - begin + 1))
        scored = end
    return windows


def encode_documents(tok: ByteifiedTokenizer, texts: Sequence[str]) -> list[EncodedRow]:
    """Texts as training encodes them, without BOS and EOS."""
    return encode_rows(tok, [Document(text, bos=False, eos=False) for text in texts])


def is_whole(row: EncodedRow) -> bool:
    """Whether a document's tokens stand for all its bytes, one after another."""
    begin, end = row.begin, row.end
    if not len(begin):
        return not row.data
    touch = np.array_equal(begin[1:], end[:-1])
    return bool(begin[0] == 0 and end[-1] == len(row.data) and touch)


def writable_texts(toks: Sequence[ByteifiedTokenizer], texts: Sequence[str]) -> list[str]:
    """The texts that all of these tokenizers can write; others are named in a warning.

    Raises:
        DataError: if none is left.
    """
    kept = []
    for number, text in enumerate(texts):
        lacking = next((t for t in toks if not is_whole(encode_documents(t, [text])[0])), None)
        if lacking is None:
            kept.append(text)
            continue
        logger.warning(
            f"document {number + 1} ({text[:40]!r}) is left out: tokenizer '{lacking.spec}' "
            "cannot write all its characters"
        )
    if texts and not kept:
        raise DataError("no document is left that the tokenizers can write")
    return kept


def batches_of(windows: list[Window], batch_size: int) -> list[Sequences]:
    """Windows of like lengths together; context does not count.

    Padding is token 0, which every model has a row for: a tokenizer's own may have none.
    """
    windows = sorted(windows, key=lambda w: -len(w.ids))
    batches = []
    for begin in range(0, len(windows), batch_size):
        group = windows[begin : begin + batch_size]
        length = len(group[0].ids)
        ids = torch.zeros(len(group), length, dtype=torch.long)
        mask, counted = torch.zeros(2, len(group), length, dtype=torch.bool)
        for row, window in enumerate(group):
            n = len(window.ids)
            ids[row, :n] = torch.from_numpy(window.ids)
            mask[row, :n] = True
            counted[row, window.first : n] = True
        batches.append(Sequences.of(ids, mask, counted))
    return batches


def _check_windows(model: Any, windows: Sequence[Window]) -> None:
    """Refuse windows that a model cannot read; what stands for one is not looked into.

    Raises:
        ModelError: if they are longer than its learned positions, or a token has no row.
    """
    if not hasattr(model, "backbone"):
        return
    longest = max(len(window.ids) for window in windows)
    positions = getattr(model.backbone.config, "max_position_embeddings", longest)
    if model.architecture.learned_positions and longest > positions:
        raise ModelError(
            f"a window of text has {longest} tokens, but the model has {positions} positions: "
            f"give fewer bytes a window (--max-bytes, eval.max_bytes), about {positions}"
        )
    highest, rows = max(int(window.ids.max()) for window in windows), model.vocabulary.rows
    if highest >= rows:
        raise ModelError(
            f"the tokenizer makes id {highest} of the text, but the model has rows for {rows} "
            "tokens: it is not this model's tokenizer"
        )


@torch.no_grad()
def document_bits(
    read: Callable[[Sequences, Collection[str]], Outputs],
    tok: ByteifiedTokenizer,
    texts: Sequence[str],
    *,
    max_bytes: int,
    batch_size: int,
    device: torch.device,
    rank: int = 0,
    ranks: int = 1,
) -> torch.Tensor:
    """Negative log2-likelihood of each text, float64 ``[documents]`` on the CPU.

    Arguments are those of :func:`bits_per_byte`; with ``ranks``, only this rank's share is in it.
    """
    windows = [
        (number, window)
        for number, row in enumerate(encode_documents(tok, texts))
        for window in windows_of(row.ids, row.end, context_id(tok), max_bytes)
    ]
    _check_windows(read, [window for _, window in windows])
    windows.sort(key=lambda item: -len(item[1].ids))  # as in batches, which keep this order
    documents = torch.tensor([number for number, _ in windows], dtype=torch.long)
    batches = batches_of([window for _, window in windows], batch_size)
    total = torch.zeros(len(texts), dtype=torch.float64)
    for number in range(-(-len(batches) // ranks)):
        # Sharded models need every rank in every forward pass; idle ones repeat the last batch.
        mine = number * ranks + rank
        seq = batches[min(mine, len(batches) - 1)].to(device)
        logprob = read(seq, ("label",)).token_logprob
        if mine < len(batches):
            of_rows = logprob.double().masked_fill(~seq.counted, 0).sum(1).cpu()
            total.index_add_(0, documents[mine * batch_size :][: len(of_rows)], of_rows)
    return -total / math.log(2)


def bits_per_byte(
    read: Callable[[Sequences, Collection[str]], Outputs],
    tok: ByteifiedTokenizer,
    texts: Sequence[str],
    *,
    max_bytes: int,
    batch_size: int,
    device: torch.device,
    rank: int = 0,
    ranks: int = 1,
    group: dist.ProcessGroup | None = None,
) -> float:
    """Negative log2-likelihood of the texts divided by their UTF-8 bytes.

    Args:
        read: a :class:`~tokenkit.models.causal_lm.CausalLM`, or a teacher's ``read``.
        texts: that the tokenizer can write, see :func:`writable_texts`.
        max_bytes: bytes a window.
        batch_size: windows a forward pass.
        rank, ranks, group: share the work among data-parallel ranks; all get the result.
    """
    share = {"rank": rank, "ranks": ranks}
    bits = document_bits(
        read, tok, texts, max_bytes=max_bytes, batch_size=batch_size, device=device, **share
    )
    total = bits.sum()
    if group is not None:
        total = total.to(device)
        dist.all_reduce(total, group=group)
    return total.item() / sum(len(text.encode("utf-8")) for text in texts)


def evaluate_bits_per_byte(
    read: Callable[[Sequences, Collection[str]], Outputs],
    tok: ByteifiedTokenizer,
    texts: list[str],
    config: Config,
    parallel: Parallel,
) -> float:
    """Bits per byte of a model in training, all ranks together."""
    return bits_per_byte(
        read,
        tok,
        texts,
        max_bytes=config.eval.max_bytes,
        batch_size=config.eval.batch_size,
        device=parallel.device,
        rank=parallel.dp_rank,
        ranks=parallel.dp_size,
        group=parallel.dp_group,
    )
