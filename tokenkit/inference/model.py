"""A model that plain transformers loads, with its tokenizer seen as bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tokenkit.errors import DataError, ModelError, TokenkitError
from tokenkit.inference.spelling import Spelling
from tokenkit.models.checks import check_config
from tokenkit.models.weights import SafetensorsSource, resolve_model_folder
from tokenkit.tokenizers import ByteifiedTokenizer, load_tokenizer


class TextModel:
    """A causal language model of transformers that reads and writes text.

    Attributes:
        model: as ``AutoModelForCausalLM`` loads it.
        tok: its tokenizer.
        name: what messages call it.
    """

    def __init__(self, model: Any, tok: ByteifiedTokenizer, name: str) -> None:
        self.model, self.tok, self.name = model, tok, name

    @cached_property
    def spelling(self) -> Spelling:
        """What each token adds to a text."""
        return Spelling(self.tok)

    @cached_property
    def ends(self) -> list[int]:
        """Ids that end a text: those of ``generation_config.json``; without any, EOS."""
        ends = self.model.generation_config.eos_token_id
        ends = [ends] if isinstance(ends, int) else ends
        return list(ends) if ends else [self.tok.eos_id]

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a text as the tokenizer gives them, behind BOS if its texts begin with one.

        A text that spells BOS at its beginning has it already.
        """
        ids = self.tok.encode_text(text)
        begin = [self.tok.ids[self.tok.text_bos]] if self.tok.text_bos else []
        return ids if ids[:1] == begin else begin + ids

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a chat by the model's own template, up to where the answer begins.

        Special tokens that contents spell out are text.

        Raises:
            DataError: if there is no template, or it refuses the chat.
        """
        if self.tok.chat is None:
            raise DataError(f"--chat: '{self.name}' has no chat template")
        return self.tok.encode_chat(messages, add_generation_prompt=True)

    @property
    def rows(self) -> int:
        """Of the input matrix."""
        return self.model.get_input_embeddings().weight.shape[0]

    @property
    def context(self) -> int | None:
        """Longest row that the model reads; None if its config does not say."""
        return getattr(self.model.config, "max_position_embeddings", None)


def own_code(folder: Path) -> bool:
    """Whether a model folder needs Python code of its own to be loaded."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # who reads it next says what is wrong
    if not isinstance(config, dict) or "auto_map" not in config:
        return False
    return config.get("model_type") not in CONFIG_MAPPING


def check_code(model: str, folder: Path, trusted: bool) -> None:
    """Refuse a folder that needs code which is not trusted.

    Raises:
        ModelError: naming the option that trusts it.
    """
    if own_code(folder) and not trusted:
        raise ModelError(
            f"model '{model}' brings its own Python code; if you trust it, pass "
            "--trust-remote-code to run it"
        )


def load_hf(model: str, dtype: torch.dtype | str, trust_remote_code: bool = False) -> Any:
    """A model folder or hub id as ``AutoModelForCausalLM`` loads it, on the CPU.

    Args:
        dtype: of the weights; "auto" is what the config says.
        trust_remote_code: run Python code that the folder brings, as byte-level models need.

    Raises:
        ModelError: if it is missing, damaged, not finite, or needs code that is not trusted.
    """
    folder = resolve_model_folder(model)
    check_code(model, folder, trust_remote_code)
    SafetensorsSource(folder).check()  # scores of NaN would look like any others
    try:
        code = {"trust_remote_code": trust_remote_code}
        config = AutoConfig.from_pretrained(folder, **code)
        check_config(config, model)
        # A hub id's code is not among the files of ``folder``.
        name, _, revision = model.partition("@")
        remote = own_code(folder) and not Path(model).expanduser().is_dir()
        where: dict[str, Any] = {"revision": revision or "main"} if remote else {}
        return AutoModelForCausalLM.from_pretrained(
            name if remote else folder, config=config, dtype=dtype, **code, **where
        ).eval()
    except TokenkitError:
        raise
    except Exception as error:  # transformers raises many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"model '{model}' cannot be loaded: {reason}") from error


def load_text_model(
    model: str,
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    tok: ByteifiedTokenizer | None = None,
    trust_remote_code: bool = False,
) -> TextModel:
    """Load a model folder or hub id for generation.

    Args:
        dtype: of the weights; default bf16 on accelerators, else fp32.
        tok: its tokenizer; default the one in its folder.

    Raises:
        ModelError: see :func:`load_hf`.
        TokenizerError: if its tokenizer cannot be read as bytes.
    """
    if dtype is None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loaded = load_hf(model, dtype, trust_remote_code)
    tok = tok or load_tokenizer(str(resolve_model_folder(model)))
    return TextModel(loaded.to(device), tok, model)
