"""Initialisers of a new vocabulary, by name.

One is a function ``(source_tok, target_tok, matrices, seed) -> (new_matrices, report)``.
"""

from __future__ import annotations

from tokenkit.registry import Registry

INITIALIZERS = Registry("embedding initialiser")
