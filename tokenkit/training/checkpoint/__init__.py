"""Checkpoints: sharded safetensors, JSON, and a manifest that makes them whole."""

from tokenkit.training.checkpoint.checkpointer import Checkpointer
from tokenkit.training.checkpoint.manifest import (
    Checkpoint,
    find_checkpoints,
    list_steps,
    step_folder,
)
from tokenkit.training.checkpoint.reading import (
    load_tensors,
    open_checkpoint,
    whole_checkpoint,
)
from tokenkit.training.checkpoint.state import tensors_to_save

__all__ = [
    "Checkpoint",
    "Checkpointer",
    "find_checkpoints",
    "list_steps",
    "load_tensors",
    "open_checkpoint",
    "step_folder",
    "tensors_to_save",
    "whole_checkpoint",
]
