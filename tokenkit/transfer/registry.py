"""The table of vocabulary initialisers."""

from tokenkit.registry import Registry

INITIALIZERS = Registry("embedding initialiser (student.embedding_init)")
