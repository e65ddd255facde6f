"""Vocabularies: what of a model knows token ids."""
