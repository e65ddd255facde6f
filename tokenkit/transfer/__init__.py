"""Training-free transfer: embeddings of a new vocabulary from those of the old one."""

from tokenkit.transfer.focus import focus
from tokenkit.transfer.fvt import fvt
from tokenkit.transfer.mean import mean
from tokenkit.transfer.omp import omp
from tokenkit.transfer.random import random
from tokenkit.transfer.registry import INITIALIZERS

__all__ = ["INITIALIZERS", "focus", "fvt", "mean", "omp", "random"]
