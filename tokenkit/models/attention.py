"""Causal attention that need not look at the batch, nor write ``[T, T]`` scores on a GPU.

Rows are padded on the right, one document each, so who attends to whom follows from places alone.
transformers looks into every batch for packed documents before it says so, which makes the CPU
wait for the device in each forward pass. An implementation without a function for masks is spared
the look: it is registered here. Windows and soft-caps (Gemma 2 and 3, Mistral) run on GPUs as
flex_attention, which leaves out what no position sees.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from tokenkit.log import logger

CAUSAL = "tokenkit_causal"
# Families that hand soft-cap and window of a layer to the function they attend by.
SAY_THEIR_WINDOW = {"gemma2", "gemma3_text", "mistral", "phi3", "qwen2", "qwen3"}


def causal_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of whole rows; as transformers' own attention functions.

    Args:
        query: ``[B, H, T, d]``.
        key, value: ``[B, K, T, d]``, K a divisor of H.
        softcap: scores become ``softcap * tanh(scores / softcap)``.
        sliding_window: a position attends to itself and those before it, so many in all.

    Returns:
        ``[B, T, H, d]``.
    """
    length = query.shape[2]
    window = sliding_window if sliding_window and sliding_window < length else 0
    if not window and softcap is None:
        return sdpa_attention_forward(module, query, key, value, None, scaling=scaling, **others)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    made = None
    if query.is_cuda:
        made = _try_flex(query, key, value, scale, softcap, window)
    if made is None:
        made = _masked(query, key, value, scale, softcap, window)
    return made.transpose(1, 2), None


def _masked(
    query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None, window: int
) -> Tensor:
    """By a mask of all pairs; ``[B, H, T, d]``."""
    key, value = (repeat_kv(x, query.shape[1] // x.shape[1]) for x in (key, value))
    mask = _seen(query.shape[2], window, query.device)
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = softcap * torch.tanh(query @ key.mT * scale / softcap)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1, dtype=torch.float32).to(query.dtype) @ value


_flex_failed = False


def _try_flex(
    query: Tensor, key: Tensor, value: Tensor, scale: float, softcap: float | None, window: int
) -> Tensor | None:
    """By flex_attention; None, and said once, where it cannot be compiled."""
    global _flex_failed
    if _flex_failed:
        return None
    length = query.shape[2]
    more = _few_lengths(length) - length  # on the right, where no position sees it
    query, key, value = (F.pad(x, (0, 0, 0, more)) for x in (query, key, value))
    try:
        blocks = _blocks(length + more, window, query.device)
        return _flex(softcap)(query, key, value, scale, blocks)[:, :, :length]
    except Exception as error:
        _flex_failed = True
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        logger.warning(f"flex_attention cannot be used; attention takes a mask instead ({reason})")
        return None


def _few_lengths(length: int) -> int:
    """A length rounded up, so that few differ: masks and kernels are made for each."""
    step = 128 if length <= 1024 else 512
    return -(-length // step) * step


@lru_cache(8)
def _seen(length: int, window: int, device: torch.device) -> Tensor:
    """``[T, T]`` bool, whether a position (row) attends to another; ``window`` 0: to all before."""
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril().triu(1 - window) if window else ones.tril()


@lru_cache(64)
def _blocks(length: int, window: int, device: torch.device) -> Any:
    """The same for flex_attention."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(_batch: Tensor, _head: Tensor, here: Tensor, there: Tensor) -> Tensor:
        before = there <= here
        return before & (here - there < window) if window else before

    return create_block_mask(sees, None, None, length, length, device=device)


@cache
def _flex(softcap: float | None) -> Callable[..., Tensor]:
    """flex_attention, compiled, with or without a soft-cap."""
    from torch.nn.attention.flex_attention import flex_attention

    def cap(score: Tensor, *_: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    def attend(query: Tensor, key: Tensor, value: Tensor, scale: float, blocks: Any) -> Tensor:
        change = None if softcap is None else cap
        return flex_attention(query, key, value, change, blocks, scale, enable_gqa=True)

    return torch.compile(attend)


AttentionInterface.register(CAUSAL, causal_attention)


def attend_causally(backbone: nn.Module, chosen: str = "") -> None:
    """Let a backbone attend by :func:`causal_attention`, where that is what it does.

    Args:
        chosen: an implementation that was asked for; it stays.
    """
    config = backbone.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", 1)
    special = windowed or "sliding_attention" in kinds or config._attn_implementation != "sdpa"
    if (
        not chosen
        and config._attn_implementation in ("sdpa", "eager")
        and kinds <= {"full_attention", "sliding_attention"}
        and not getattr(config, "use_bidirectional_attention", False)
        and (not special or config.model_type in SAY_THEIR_WINDOW)
    ):
        config._attn_implementation = CAUSAL
