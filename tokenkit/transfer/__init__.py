"""Training-free transfer: initialisers of a new vocabulary's matrices, by name."""

from tokenkit.transfer.fvt import fvt
from tokenkit.transfer.registry import INITIALIZERS

__all__ = ["INITIALIZERS", "fvt"]
