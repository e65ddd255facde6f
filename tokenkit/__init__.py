"""tokenkit: transfer language models between tokenizers."""

__version__ = "0.1.0"
