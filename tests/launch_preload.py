"""Imported once by the fork server that :mod:`tests.launch` uses: what train.py imports late."""

import tokenkit.data  # noqa: F401
import tokenkit.evaluation.in_training  # noqa: F401
import tokenkit.training.identity  # noqa: F401
import tokenkit.training.metrics  # noqa: F401
import tokenkit.training.run_directory  # noqa: F401
import tokenkit.training.step  # noqa: F401
import train  # noqa: F401
