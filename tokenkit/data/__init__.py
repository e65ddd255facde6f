"""Data: sources, their global order, and the stream of aligned micro-batches."""

from tokenkit.data.batch import Batch
from tokenkit.data.loader import build_train_loader, load_validation_texts

__all__ = ["Batch", "build_train_loader", "load_validation_texts"]
