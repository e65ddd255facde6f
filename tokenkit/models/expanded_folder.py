"""Folders of byte-level models that read subwords, too: what differs from a family's plain ones.

Such a folder has a model type and a modelling file of its own (``tokenkit/byte_model/``), a table
of subwords and a trie beside the weights. Within tokenkit the same classes are registered, so that
no code of a folder is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

import tokenkit.byte_model
from tokenkit.byte_model.suffix_trie import SuffixTrie
from tokenkit.errors import ModelError
from tokenkit.models.vocabulary.expanded import Expansion

PREFIX = "expanded_"
OWN_KEYS = ("model_type", "auto_map", "architectures", "transformers_version")
SIZES = ("subword_rows", "trie_slots", "longest_subword")
TENSORS = ("subwords.weight", "trie_keys", "trie_values")
HERE = Path(tokenkit.byte_model.__path__[0])
FILES = (HERE / "modeling_expanded.py", HERE / "suffix_trie.py")


def modelling() -> ModuleType:
    """The modelling file, whose classes transformers then knows."""
    # It imports every family's code, so not before it is needed.
    from tokenkit.byte_model import modeling_expanded

    for config, model in classes(modeling_expanded).values():
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForCausalLM.register(config, model, exist_ok=True)
    return modeling_expanded


def classes(module: ModuleType) -> dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel]]]:
    """Config and model class by the family's plain model type."""
    found: list[Any] = [kind for kind in vars(module).values() if isinstance(kind, type)]
    models = [m for m in found if issubclass(m, module.Expanded) and m is not module.Expanded]
    return {m.config_class.model_type.removeprefix(PREFIX): (m.config_class, m) for m in models}


def is_expanded(folder: Path) -> bool:
    """Whether a model folder is of this kind; then its config can be read from here on."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return False  # who reads it next says what is wrong
    if not str(kind).startswith(PREFIX):
        return False
    modelling()
    return True


def plain_config(config: Any) -> Any:
    """The family's own config."""
    values = {k: v for k, v in config.to_dict().items() if k not in (*OWN_KEYS, *SIZES)}
    made = AutoConfig.for_model(config.model_type.removeprefix(PREFIX), **values)
    made._attn_implementation = config._attn_implementation
    return made


def read_expansion(weights: Mapping[str, Tensor], longest: int) -> Expansion:
    """Table and trie of a folder.

    Args:
        longest: bytes of the longest subword.

    Raises:
        ModelError: if the weights lack them.
    """
    if missing := [name for name in TENSORS if name not in weights]:
        raise ModelError(f"the model's weights have no tensor '{missing[0]}'")
    subwords, keys, values = (weights[name] for name in TENSORS)
    return Expansion(subwords, SuffixTrie(keys.numpy(), values.numpy()), longest)


def expanded_config(plain: Any, expansion: Expansion) -> Any:
    """The config of a family's plain one with an expansion."""
    module = modelling()
    config_class, model_class = classes(module)[plain.model_type]
    values = {k: v for k, v in plain.to_dict().items() if k not in OWN_KEYS}
    sizes = (len(expansion.subwords), len(expansion.trie.keys), expansion.longest)
    config = config_class(**values, **dict(zip(SIZES, sizes, strict=True)))
    name = module.__name__.rpartition(".")[2]
    config.auto_map = {
        "AutoConfig": f"{name}.{config_class.__name__}",
        "AutoModelForCausalLM": f"{name}.{model_class.__name__}",
    }
    return config


def expansion_tensors(expansion: Expansion) -> dict[str, Tensor]:
    """What a folder holds of an expansion, by name."""
    keys, values = (torch.from_numpy(a) for a in (expansion.trie.keys, expansion.trie.values))
    return dict(zip(TENSORS, (expansion.subwords, keys, values), strict=True))
