"""Software that settings name: kinds of attention, backends of torch.compile.

Common names are known here. Only for others, their library is imported and asked, which takes
seconds, but not the minute after which the model would have failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from tokenkit.config.load import to_toml
from tokenkit.config.schema import Config
from tokenkit.extras import missing
from tokenkit.registry import did_you_mean

# Attention of transformers by name, and the package that each needs
ATTENTION = {
    "": "",
    "eager": "",
    "sdpa": "",
    "flex_attention": "",
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}


def check_installed(config: Config) -> Iterator[str]:
    """Yield one line for each name that means nothing on this machine."""
    for section in ("student", "teacher"):
        name = getattr(config, section).attn_implementation
        where = f"{section}.attn_implementation = {to_toml(name)}:"
        if name in ATTENTION:
            package = ATTENTION[name]
            if package and find_spec(package) is None:
                yield f"{where} it needs the package {package}, which is not installed; use sdpa"
        elif "/" in name and find_spec("kernels") is None:
            yield f"{where} kernels of the hub need the package kernels, which is not installed"
        elif "/" not in name and name not in (known := _registered_attention()):
            yield f"{where} expected one of {', '.join(known)}{did_you_mean(name, known)}"
    if config.eval.tasks and (problem := missing("eval")):
        yield f"eval.tasks = {to_toml(config.eval.tasks)}: {problem}"
    yield from _check_backend(config.compile.backend)
    if config.metrics.wandb and find_spec("wandb") is None:
        yield (
            f"metrics.wandb = {to_toml(config.metrics.wandb)}: it needs the package wandb, which "
            "is not installed (pip install wandb; wandb login)"
        )


def _registered_attention() -> list[str]:
    """Names that transformers knows, those that ``job.custom_import`` has added to it included."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    paged = [name for name in ALL_ATTENTION_FUNCTIONS if "|" in name]  # for serving only
    return sorted({"eager", *ALL_ATTENTION_FUNCTIONS} - set(paged))


def _check_backend(name: str) -> Iterator[str]:
    if name == "inductor":
        return
    import torch._dynamo as dynamo

    known = dynamo.list_backends(exclude_tags=None)
    if name not in known:
        yield (
            f"compile.backend = {to_toml(name)}: torch has no such backend"
            f"{did_you_mean(name, known)} (available: {', '.join(known)})"
        )
