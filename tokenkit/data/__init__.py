"""Data: sources, their global order, and the stream of aligned micro-batches."""

from tokenkit.batch import Batch
from tokenkit.data.loader import TrainLoader, build_train_loader
from tokenkit.data.sources import FILE_KINDS
from tokenkit.data.validation import load_validation_texts

__all__ = ["FILE_KINDS", "Batch", "TrainLoader", "build_train_loader", "load_validation_texts"]
