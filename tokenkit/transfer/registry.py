"""Initialisers of a new vocabulary, by name.

One is a function ``(source_tok, target_tok, matrices, seed) -> (new_matrices, report)``; see
:func:`tokenkit.transfer.fvt.fvt`.
"""

from __future__ import annotations

from tokenkit.registry import Registry

# Settings are checked against these names, long before tokenizers are imported.
BUILT_IN = ("focus", "fvt", "mean", "omp", "random")

INITIALIZERS = Registry(
    "embedding initialiser", {name: f"tokenkit.transfer.{name}" for name in BUILT_IN}
)
