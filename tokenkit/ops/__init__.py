"""Kernels that know no model: blocks of logits, sums over chunks."""
