"""Tokenizers changed: tokens taken out or added."""
