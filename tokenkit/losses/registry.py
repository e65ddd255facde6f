"""The table of losses."""

from tokenkit.registry import Registry

LOSSES = Registry("loss")
