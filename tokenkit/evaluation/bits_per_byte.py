"""Bits per byte: how well a model predicts text, comparable between tokenizers.

Every document follows a context token (BOS, else EOS), so that every byte of it is predicted by
every model. Documents longer than a window are read in windows that overlap by half, and each
token is scored once, in the window that gives it most context.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from tokenkit.config import Config
from tokenkit.models.causal_lm import CausalLM
from tokenkit.parallelisms import Parallel
from tokenkit.tokenizers import ByteifiedTokenizer


@dataclass(frozen=True)
class Window:
    """A piece of a document; tokens from ``first`` on are scored here."""

    ids: np.ndarray  # [n]
    first: int


def windows_of(ids: np.ndarray, max_length: int) -> list[Window]:
    """Cut a document (context token first) into windows of at most ``max_length`` tokens."""
    windows = [Window(ids[:max_length], 1)]
    scored = len(windows[0].ids)
    while scored < len(ids):
        end = min(scored + max(1, max_length // 2), len(ids))
        begin = max(0, end - max_length)
        windows.append(Window(ids[begin:end], scored - begin))
        scored = end
    return windows


def encode_documents(tok: ByteifiedTokenizer, texts: list[str]) -> list[np.ndarray]:
    """Ids of plain texts (markers in them are text), each after a context token."""
    backend = tok.hf.backend_tokenizer
    context = tok.eos_id if tok.bos_id is None else tok.bos_id
    encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
    return [np.array([context, *document.ids], dtype=np.int64) for document in encoded]


def batches_of(windows: list[Window], batch_size: int, pad_id: int) -> list[tuple[Tensor, ...]]:
    """Ids, mask and scored mask (position t: is token t + 1 scored?), ``[B, T]`` each."""
    windows = sorted(windows, key=lambda w: -len(w.ids))
    batches = []
    for begin in range(0, len(windows), batch_size):
        group = windows[begin : begin + batch_size]
        length = len(group[0].ids)
        ids = torch.full((len(group), length), pad_id)
        mask, scored = torch.zeros(2, len(group), length, dtype=torch.bool)
        for row, window in enumerate(group):
            n = len(window.ids)
            ids[row, :n] = torch.from_numpy(window.ids)
            mask[row, :n] = True
            scored[row, window.first - 1 : n - 1] = True
        batches.append((ids, mask, scored))
    return batches


@torch.no_grad()
def bits_per_byte(
    model: CausalLM,
    tok: ByteifiedTokenizer,
    texts: list[str],
    *,
    max_length: int,
    batch_size: int,
    device: torch.device,
    rank: int = 0,
    ranks: int = 1,
    group: dist.ProcessGroup | None = None,
) -> float:
    """Negative log2-likelihood of the texts divided by their UTF-8 bytes.

    Args:
        max_length: tokens a window.
        batch_size: windows a forward pass.
        rank, ranks, group: share the work among data-parallel ranks; all get the result.
    """
    windows = [w for ids in encode_documents(tok, texts) for w in windows_of(ids, max_length)]
    batches = batches_of(windows, batch_size, tok.pad_id)
    total = torch.zeros((), dtype=torch.float64)
    for number in range(-(-len(batches) // ranks)):
        # Sharded models need every rank in every forward pass; idle ones repeat the last batch.
        mine = number * ranks + rank
        ids, mask, scored = (t.to(device) for t in batches[min(mine, len(batches) - 1)])
        logprob = model(ids, mask).scores.label_logprob
        if mine < len(batches):
            total += logprob[scored].double().sum().cpu()
    if group is not None:
        total = total.to(device)
        dist.all_reduce(total, group=group)
    size = sum(len(text.encode("utf-8")) for text in texts)
    return -total.item() / (math.log(2) * size)


def evaluate_bits_per_byte(
    student: CausalLM,
    tok: ByteifiedTokenizer,
    texts: list[str],
    config: Config,
    parallel: Parallel,
) -> float:
    """Bits per byte of a model in training, all ranks together."""
    return bits_per_byte(
        student,
        tok,
        texts,
        max_length=config.eval.max_length,
        batch_size=config.eval.batch_size,
        device=parallel.device,
        rank=parallel.dp_rank,
        ranks=parallel.dp_size,
        group=parallel.dp_group,
    )
