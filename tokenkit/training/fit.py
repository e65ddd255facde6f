"""Whether a model, its tokenizer and the lengths of a run fit together."""

from __future__ import annotations

from typing import Literal

from tokenkit.config import Config
from tokenkit.errors import ConfigError
from tokenkit.log import warn_once
from tokenkit.models.causal_lm import SourceModel
from tokenkit.models.checks import check_token_rows
from tokenkit.tokenizers import ByteifiedTokenizer

Side = Literal["student", "teacher"]


def check_fit(config: Config, source: SourceModel, tok: ByteifiedTokenizer, side: Side) -> None:
    """Refuse a tokenizer of another model, and sequences longer than learned positions.

    Raises:
        ModelError: if tokens of the tokenizer have no rows.
        ConfigError: if sequences may be too long.
    """
    check_token_rows(tok, len(source.matrices()[0]), str(source.folder))
    check_length(config, source, side)


def check_length(config: Config, source: SourceModel, side: Side) -> None:
    """Refuse sequences beyond learned positions; warn of those beyond what rotary ones have seen.

    Raises:
        ConfigError: naming the key and the number of positions.
    """
    length = getattr(config.training, f"max_{side}_length")
    positions = getattr(source.hf_config, "max_position_embeddings", None)
    if positions is None or length <= positions:
        return
    said = (
        f"training.max_{side}_length = {length}, but the {side}'s model has {positions} positions"
    )
    if source.architecture.learned_positions:
        raise ConfigError(f"{said}: set it to at most {positions}")
    warn_once(f"{said}; it was not trained on longer sequences")
