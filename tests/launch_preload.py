"""Imported once by the fork server that :mod:`tests.launch` uses: what train.py imports late."""

import gc

import transformers.models.llama.modeling_llama  # noqa: F401

import tokenkit.data  # noqa: F401
import tokenkit.evaluation.in_training  # noqa: F401
import tokenkit.planning.start  # noqa: F401
import tokenkit.training.ends  # noqa: F401
import tokenkit.training.fetch  # noqa: F401
import tokenkit.training.identity  # noqa: F401
import tokenkit.training.metrics  # noqa: F401
import tokenkit.training.phases  # noqa: F401
import tokenkit.training.run_directory  # noqa: F401
import tokenkit.training.skipped  # noqa: F401
import tokenkit.training.step  # noqa: F401
import tokenkit.training.student  # noqa: F401
import tokenkit.transfer.fvt  # noqa: F401
import train  # noqa: F401

# Ranks look for garbage before they train: not in what all of them share.
gc.freeze()
