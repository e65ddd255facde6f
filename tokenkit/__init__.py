"""tokenkit: transfer language models between tokenizers.

``import tokenkit as tk`` takes no time and imports nothing else: torch, transformers and the rest
come when one of the names below is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenkit.api.alignment import align, load_tokenizer
    from tokenkit.api.likelihoods import alm_loss, alm_sum
    from tokenkit.api.measures import bits_per_byte
    from tokenkit.api.rows import transfer_embeddings
    from tokenkit.api.runs import load_run
    from tokenkit.ops.linear_scores import linear_scores

__version__ = "0.1.0"

__all__ = [
    "align",
    "alm_loss",
    "alm_sum",
    "bits_per_byte",
    "linear_scores",
    "load_run",
    "load_tokenizer",
    "transfer_embeddings",
]

# Where each of them lives. torch and transformers take seconds to import; a name takes none.
_HOMES = {
    "align": "tokenkit.api.alignment",
    "alm_loss": "tokenkit.api.likelihoods",
    "alm_sum": "tokenkit.api.likelihoods",
    "bits_per_byte": "tokenkit.api.measures",
    "linear_scores": "tokenkit.ops.linear_scores",
    "load_run": "tokenkit.api.runs",
    "load_tokenizer": "tokenkit.api.alignment",
    "transfer_embeddings": "tokenkit.api.rows",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tokenkit' has no attribute '{name}'")
    # No sub-module may be called like one of these: importing it would hide the function.
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
