"""Imported once by the fork server that :mod:`tests.launch` uses."""

import train  # noqa: F401
