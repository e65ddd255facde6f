"""What a model writes, and what writing costs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from tokenkit.evaluation.comparison.entry import Entry
from tokenkit.inference.generate import generate
from tokenkit.inference.model import TextModel, load_text_model
from tokenkit.inference.sampling import Sampling
from tokenkit.log import logger


@dataclass
class Writing:
    """Greedy continuations of the same prompts by one model, and their cost.

    Attributes:
        texts: one a prompt.
        tokens: that were chosen, those that end a text included.
        size: bytes of the texts.
        seconds: that all of it took, one prompt after another, reading the prompts included.
        cache_per_token: bytes of keys and values a token; None if the cache is of another kind.
        parameters: of the whole model.
    """

    texts: list[str] = field(default_factory=list)
    tokens: int = 0
    size: int = 0
    seconds: float = 0.0
    cache_per_token: float | None = None
    parameters: int = 0


def open_writer(entry: Entry, device: torch.device) -> TextModel:
    """The model of an entry, for generation."""
    model = load_text_model(
        entry.folder, device=device, tok=entry.tok, trust_remote_code=entry.trusted
    )
    model.name = entry.name
    return model


def write(model: TextModel, prompts: Sequence[str], max_new_tokens: int) -> Writing:
    """Let a model go on from prompts, and measure.

    Raises:
        DataError: if a prompt is too long for the model.
    """
    logger.info(f"{model.name}: goes on from {len(prompts)} prompts")
    ids = [model.encode_prompt(prompt) for prompt in prompts]
    list(generate(model, ids[:1], Sampling(max_new_tokens=1)))  # the first run is slower
    begin = time.perf_counter()
    found = list(generate(model, ids, Sampling(max_new_tokens=max_new_tokens)))
    seconds = time.perf_counter() - begin
    return Writing(
        [made.text for made in found],
        sum(len(made.ids) for made in found),
        sum(len(made.text.encode()) for made in found),
        seconds,
        cache_bytes(model, ids[0]),
        sum(parameter.numel() for parameter in model.model.parameters()),
    )


@torch.no_grad()
def cache_bytes(model: TextModel, ids: Sequence[int]) -> float | None:
    """Bytes a token that the KV cache holds of a text, all layers together."""
    row = torch.tensor([list(ids)], device=model.model.device)
    cache = model.model(input_ids=row, use_cache=True).past_key_values
    layers = getattr(cache, "layers", None)
    if not layers or not all(hasattr(layer, "keys") for layer in layers):
        return None
    tensors = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / len(ids)


def opening(text: str, size: int = 80) -> str:
    """The beginning of a document, up to the end of a word."""
    if len(text) <= size:
        return text
    begin = text[:size]
    whole = begin.rstrip() if text[size].isspace() else begin.rpartition(" ")[0].rstrip()
    return whole or begin
