"""The model ``tokenkit`` of the lm-eval harness: a folder or hub id, on one process or several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoTokenizer

from tokenkit.errors import ConfigError, ModelError, TokenkitError
from tokenkit.evaluation.device import usable_device
from tokenkit.evaluation.harness import (
    Answer,
    ByteFairLM,
    TokenRequest,
    all_gather_flat,
    log_of_fallback,
)
from tokenkit.inference.model import load_hf
from tokenkit.models.checks import check_token_rows
from tokenkit.models.weights import resolve_model_folder
from tokenkit.parallelisms.mesh import init_distributed
from tokenkit.ranks import rank, world_size
from tokenkit.tokenizers import ByteifiedTokenizer, load_tokenizer


def open_folder(
    model: str, dtype: str = "auto", trust_remote_code: bool = False
) -> tuple[Any, Any, Path]:
    """A folder's or hub id's model and tokenizer, as ``transformers`` loads them.

    Raises:
        ConfigError: if there is no such dtype.
        ModelError: if it is missing or damaged, or would run code that nobody allowed.
    """
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ConfigError(f"--dtype '{dtype}' is none of auto, float32, bfloat16, float16")
    made = load_hf(model, dtype, trust_remote_code)
    folder = resolve_model_folder(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever code of others raises on files it does not like
        raise ModelError(f"tokenizer of '{model}' cannot be loaded: {error}") from error
    return made, tokenizer, folder


class TokenkitLM(ByteFairLM):
    """A model folder or hub id. Every process of torchrun or accelerate answers its share.

    Args:
        pretrained: folder or hub id.
        tokenizer: spec of its tokenizer as bytes (for rolling tasks), if not what its files say.
        dtype: of the weights; "auto" is what the config says.
        device: default a GPU if there is one, of several processes each its own.
        trust_remote_code: run Python code that comes with the model.
        max_bytes: bytes a window of rolling tasks.
        options: of lm-eval's own model, such as ``batch_size`` and ``max_length``.

    Raises:
        TokenkitError: if the model cannot be opened.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        tokenizer: str = "",
        dtype: str = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
        max_bytes: int = 2048,
        batch_size: int | str = 8,
        **options: Any,
    ) -> None:
        place = usable_device(device)
        if world_size() > 1 and not dist.is_initialized():
            own, _ = init_distributed()
            place = own if device is None else place
        model, hf_tokenizer, folder = open_folder(pretrained, dtype, trust_remote_code)

        def byteified() -> ByteifiedTokenizer | None:
            try:
                tok = load_tokenizer(tokenizer or str(folder))
                rows = len(model.get_input_embeddings().weight)
                check_token_rows(tok, rows, pretrained, as_it_is=True)
                return tok
            except TokenkitError as error:
                if tokenizer:
                    raise
                log_of_fallback(pretrained, error)
                return None

        self._seen: int | None = None  # the first rows alone have a probability
        super().__init__(
            model.to(place), hf_tokenizer, byteified, backend="causal", max_bytes=max_bytes,
            batch_size=batch_size, trust_remote_code=trust_remote_code, **options,
        )  # fmt: skip
        self.model.config._name_or_path = pretrained
        self._rank, self._world_size = rank(), world_size()

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self.world_size == 1 else all_gather_flat(tensor)

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def _score_documents(self, requests: list[TokenRequest], disable_tqdm: bool) -> list[Answer]:
        # As bits per byte has it: rows that belong to no token take no probability.
        self._seen = None if self.tok is None else len(self.tok)
        try:
            return super()._score_documents(requests, disable_tqdm)
        finally:
            self._seen = None

    def _model_call(self, inps: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        return super()._model_call(inps, *others, **options)[..., : self._seen]
