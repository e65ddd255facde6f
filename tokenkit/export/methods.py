"""Training-free initialisers side by side on one model, which is read and built once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tokenkit.evaluation.bits_per_byte import bits_per_byte, writable_texts
from tokenkit.models.causal_lm import build_causal_lm, build_vocabulary, fill, materialize
from tokenkit.models.checks import check_token_rows
from tokenkit.models.source import open_source_model
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.transfer.registry import INITIALIZERS

ITSELF = "its own tokenizer"


@torch.no_grad()
def compare_methods(
    model: str,
    source_tok: ByteifiedTokenizer,
    target_tok: ByteifiedTokenizer,
    texts: Sequence[str],
    methods: Mapping[str, Mapping[str, Any]],
    *,
    seed: int = 0,
    device: torch.device,
    max_bytes: int = 2048,
    batch_size: int = 8,
) -> Iterator[tuple[str, float]]:
    """Bits per byte of a model as it is, and with the target's vocabulary by each method.

    Args:
        model: hub id or local folder.
        methods: names in :data:`INITIALIZERS`, each with its options.
        seed: of the rows that are drawn.

    Yields:
        :data:`ITSELF`, then each method, with its bits per byte, as it is found.

    Raises:
        TokenkitError: if the model cannot be used, or no text be written by both tokenizers.
    """
    texts = writable_texts([source_tok, target_tok], texts)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    source = open_source_model(model)
    known = source.matrices()
    check_token_rows(source_tok, len(known[0]), model, as_it_is=True)
    rows, valid = len(known[0]), min(len(source_tok), len(known[0]))
    made = build_causal_lm(source, rows, tied=source.tied, valid_vocab=valid, dtype=dtype)
    fill(made, source, known, device)
    options = {"max_bytes": max_bytes, "batch_size": batch_size, "device": device}
    yield ITSELF, bits_per_byte(made, source_tok, texts, **options)
    given: list[Tensor] = [matrix.to(device) for matrix in known if matrix is not None]
    rows = len(target_tok)
    for name, settings in methods.items():
        initialize = INITIALIZERS.get(name)
        new, _ = initialize(source_tok, target_tok, given, seed=seed, **settings)
        vocabulary = build_vocabulary(source, rows, tied=source.tied, valid_vocab=rows, dtype=dtype)
        materialize(vocabulary, device)
        vocabulary.fill(new[0], None if source.tied else new[1])
        made.vocabulary = vocabulary
        yield name, bits_per_byte(made, target_tok, texts, **options)
