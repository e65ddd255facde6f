"""Tokenizers drawn from texts, and their tokens spelt with another's."""
