"""Weights from a model folder, read lazily from safetensors; nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from tokenkit.errors import ModelError
from tokenkit.models.checks import check_dtype
from tokenkit.ops.copy_full import copy_full
from tokenkit.ops.finite import fits

INDEX = "model.safetensors.index.json"
HUB_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.py", "README.md"]


def resolve_model_folder(model: str) -> Path:
    """The local folder of a model: itself if it exists, else downloaded from the hub.

    Raises:
        ModelError: if the folder has no ``config.json``, or the hub cannot provide it.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            inside = Path(model) / "model"
            there = f"; name {inside}" if (inside / "config.json").is_file() else ""
            raise ModelError(f"model folder '{model}' has no config.json{there}")
        return folder
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ModelError(f"model folder '{model}' does not exist")

    from huggingface_hub import snapshot_download

    name, _, revision = model.partition("@")
    try:
        path = snapshot_download(name, revision=revision or None, allow_patterns=HUB_PATTERNS)
    except Exception as error:
        raise ModelError(
            f"model '{model}' is neither a local folder nor available from the hub: {error}"
        ) from error
    return Path(path)


def local_model_folder(model: str) -> Path | None:
    """The folder of a model whose weights are on this machine; None if they are not.

    Unlike :func:`resolve_model_folder` it downloads nothing.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        name, _, revision = model.partition("@")
        try:
            options = {"revision": revision or None, "local_files_only": True}
            folder = Path(snapshot_download(name, allow_patterns=HUB_PATTERNS, **options))
        except Exception:  # not there, or no name of a repository
            return None
    try:
        SafetensorsSource.paths(folder)  # its tokenizer alone makes a folder, too
    except ModelError:
        return None
    return folder if (folder / "config.json").is_file() else None


def weight_map(index: Path) -> dict[str, str]:
    """File name by tensor, of the index of a folder in several files.

    Raises:
        ModelError: if it cannot be read, or is no such index.
    """
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        good = all(isinstance(name, str) and Path(name).name == name for name in found.values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(
            f"'{index}' is no index of safetensors files, which has a weight_map ({reason})"
        ) from error
    if not good:
        wrong = next(n for n in found.values() if not isinstance(n, str) or Path(n).name != n)
        raise ModelError(f"'{index}': weight_map names {wrong!r}, which is no file of its folder")
    return found


class SafetensorsSource(Mapping[str, torch.Tensor]):
    """The tensors of a (possibly sharded) safetensors folder by name, memory-mapped.

    Reading one that holds NaN or infinity raises a :class:`ModelError`.
    """

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._files = {}
        self._paths: dict[str, Path] = {}
        self._finite: set[str] = set()  # tensors that were looked through
        for path in self.paths(folder):
            try:
                handle = self._stack.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise ModelError(f"'{path}' is not a readable safetensors file: {error}") from error
            keys = handle.keys()
            self._files.update(dict.fromkeys(keys, handle))
            self._paths.update(dict.fromkeys(keys, path))
        if (folder / INDEX).is_file():
            lacking = sorted(weight_map(folder / INDEX).keys() - self._files.keys())
            if lacking:
                raise ModelError(
                    f"'{folder / INDEX}' lists {lacking[0]}, which none of its files has: the "
                    "model is incomplete"
                )

    @staticmethod
    def paths(folder: Path) -> list[Path]:
        """The files of a folder's weights.

        Raises:
            ModelError: if there are none, or one of them is missing.
        """
        index = folder / INDEX
        if index.is_file():
            names = sorted(set(weight_map(index).values()))
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                raise ModelError(f"'{index}' lists {missing[0]}, which is not in the folder")
            return [folder / name for name in names]
        paths = sorted(folder.glob("*.safetensors"))
        if not paths:
            pickled = any(folder.glob("*.bin"))
            hint = " (only pickled weights: convert them to safetensors first)" if pickled else ""
            raise ModelError(f"model folder '{folder}' has no safetensors weights{hint}")
        return paths

    def __getitem__(self, key: str) -> torch.Tensor:
        tensor = self._files[key].get_tensor(key)
        if key not in self._finite:
            if not fits(tensor):
                raise ModelError(
                    f"'{self._paths[key]}': tensor '{key}' holds NaN or infinity: the file is "
                    "damaged, or its training went wrong; use another copy of the model"
                )
            self._finite.add(key)
        return tensor

    def check(self) -> None:
        """Read all tensors.

        Raises:
            ModelError: naming the first that is not finite.
        """
        for key in self:
            self[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _lookup(source: Mapping[str, torch.Tensor], key: str, prefix: str) -> torch.Tensor:
    # Base-model checkpoints (GPT-2's, for one) omit the prefix that causal-LM ones have.
    for candidate in (key, key.removeprefix(prefix)):
        if candidate in source:
            return check_dtype(candidate, source[candidate])
    stem = key.removesuffix(".weight")
    packed = [name for name in source if name.startswith(f"{stem}.") or name.startswith(f"{stem}_")]
    if packed:  # as GPTQ, AWQ and others write them
        check_dtype(packed[0], source[packed[0]])
    raise ModelError(f"the model's weights have no tensor '{key}'")


def vocabulary_matrices(
    source: Mapping[str, torch.Tensor], prefix: str, embedding: str, tied: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Input matrix ``[V, D]`` and output matrix ``[V, D]`` (None if tied) in the file's dtype."""
    inputs = _lookup(source, f"{prefix}{embedding}.weight", prefix)
    if tied:
        return inputs, None
    return inputs, _lookup(source, "lm_head.weight", prefix)


def plain_name(name: str) -> str:
    """A parameter's name without the marks that activation checkpointing leaves."""
    return name.replace("_checkpoint_wrapped_module.", "")


@torch.no_grad()
def load_backbone(backbone: nn.Module, source: Mapping[str, torch.Tensor], prefix: str) -> None:
    """Fill a materialised backbone (plain, tensor-parallel or FSDP-sharded) from ``source``.

    Adapter parameters (``lora_*``) are left alone.
    """
    for name, parameter in backbone.named_parameters():
        if ".lora_" in name:
            continue
        key = prefix + plain_name(name).replace(".base.", ".")
        full = _lookup(source, key, prefix)
        if full.shape != parameter.shape:
            raise ModelError(
                f"tensor '{key}' has shape {tuple(full.shape)}, "
                f"but config.json asks for {tuple(parameter.shape)}"
            )
        copy_full(parameter, full)


def backbone_tensors(
    source: Mapping[str, torch.Tensor], prefix: str, embedding: str
) -> dict[str, torch.Tensor]:
    """All backbone tensors by plain name, without the input matrix."""
    tensors = {}
    for key in source:
        name = key.removeprefix(prefix)
        if name != f"{embedding}.weight" and not name.startswith("lm_head."):
            weight = name.endswith(".weight")
            tensors[name] = check_dtype(key, source[key]) if weight else source[key]
    return tensors
