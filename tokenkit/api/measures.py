"""Bits per byte of models that a user holds or names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from tokenkit.api.alignment import as_tokenizer
from tokenkit.batch import Sequences
from tokenkit.errors import DataError, ModelError
from tokenkit.evaluation.bits_per_byte import bits_per_byte as measure
from tokenkit.evaluation.bits_per_byte import writable_texts
from tokenkit.evaluation.device import usable_device
from tokenkit.evaluation.folder import folder_bits_per_byte
from tokenkit.export.run import opened_model
from tokenkit.models.outputs import Outputs
from tokenkit.tokenizers import ByteifiedTokenizer


class _Reader:
    """Any causal model of ``transformers`` as training reads models: log-probs at their tokens."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, seq: Sequences, needs: Collection[str]) -> Outputs:
        # Padding is on the right, where causal attention does not look at it.
        logits = self.model(input_ids=seq.ids, attention_mask=seq.mask.long()).logits
        logprob = torch.zeros(seq.ids.shape, device=logits.device)
        for row, ids in enumerate(seq.ids):  # a row at a time: float32 of all would be large
            known = torch.log_softmax(logits[row, :-1].float(), -1)
            logprob[row, 1:] = known.gather(-1, ids[1:, None]).squeeze(-1)
        return Outputs(seq, torch.where(seq.scored, logprob, 0.0))


def bits_per_byte(
    model: Any,
    tokenizer: str | ByteifiedTokenizer,
    texts: str | Sequence[str],
    *,
    max_bytes: int = 2048,
    batch_size: int = 8,
    device: str | None = None,
) -> float:
    """Negative log2-likelihood of texts divided by their UTF-8 bytes; lower is better.

    Comparable between models with different tokenizers: bytes, windows and what is predicted are
    the same for all. Texts that the tokenizer cannot write are left out with a warning.

    Args:
        model: a model folder, hub id or output folder of a run; or a causal model of
            ``transformers`` in memory, which is read as it is, on its own device.
        tokenizer: the model's, a spec or a loaded one.
        texts: a text or several.
        max_bytes: bytes a window; longer texts are read in windows that overlap by half.
        batch_size: windows a forward pass.
        device: for a model that is named: ``cpu``, ``cuda``, …; default a GPU if there is one.

    Returns:
        Bits per byte of all texts together.

    Raises:
        DataError: if there is no text, or none that the tokenizer can write.
        ModelError: if the model cannot be loaded, or the tokenizer is another model's.
        TokenizerError: if the tokenizer cannot be loaded.
    """
    tok = as_tokenizer(tokenizer, "tokenizer")
    wanted = [texts] if isinstance(texts, str) else list(texts)
    if not any(wanted):
        raise DataError("texts: there is none, or all are empty; give at least one text")
    wanted = writable_texts([tok], [text for text in wanted if text])
    sizes: dict[str, Any] = {"max_bytes": max_bytes, "batch_size": batch_size}
    if isinstance(model, torch.nn.Module):
        return _in_memory(model, tok, wanted, sizes)
    with opened_model(str(model)) as folder:
        return folder_bits_per_byte(folder, tok, wanted, device=usable_device(device), **sizes)


def _in_memory(
    model: torch.nn.Module, tok: ByteifiedTokenizer, texts: list[str], sizes: dict[str, Any]
) -> float:
    """Bits per byte of a model as it is, without dropout.

    Raises:
        ModelError: if it has fewer rows than the tokenizer tokens.
    """
    rows = model.get_input_embeddings().weight
    if len(rows) <= max(tok.ids.values()):
        raise ModelError(
            f"model has rows for {len(rows)} tokens, but tokenizer '{tok.spec}' has ids up to "
            f"{max(tok.ids.values())}: resize the embeddings, or give the model's own tokenizer"
        )
    training = model.training
    model.eval()
    try:
        return measure(_Reader(model), tok, texts, device=rows.device, **sizes)
    finally:
        model.train(training)
