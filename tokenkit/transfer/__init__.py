"""Training-free transfer: embeddings of a new vocabulary from those of the old one."""

from tokenkit.transfer.fvt import fvt
from tokenkit.transfer.registry import INITIALIZERS

__all__ = ["INITIALIZERS", "fvt"]
