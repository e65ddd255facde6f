"""Files of a checkpoint, against the safetensors library and a hash of the whole file."""

from __future__ import annotations

import os

import pytest
import torch
import xxhash
from safetensors.torch import load_file

from tokenkit.training.checkpoint import files
from tokenkit.training.checkpoint.files import hash_of, write_safetensors


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks a tensor, and a flush every few of them."""
    monkeypatch.setattr(files, "BLOCK", 1000)
    monkeypatch.setattr(files, "FLUSH", 3000)


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {
        "rows": torch.randn(301, 17),
        "columns": torch.randn(40, 50).T,
        "half": torch.randn(333).to(torch.bfloat16),
        "long": torch.arange(1000),
        "mask": torch.rand(777) > 0.5,
        "step": torch.tensor(3.0),
        "none": torch.zeros(0, 4),
    }


def test_the_library_reads_what_was_written(tmp_path, tensors, small_blocks):
    digest = write_safetensors(tmp_path / "x.safetensors", tensors)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    whole = xxhash.xxh3_128((tmp_path / "x.safetensors").read_bytes()).hexdigest()
    assert digest == whole == hash_of(tmp_path / "x.safetensors")


@pytest.mark.parametrize("failing", [1, 2])
def test_an_error_of_the_disk_is_raised_whenever_it_comes(
    tmp_path, tensors, small_blocks, monkeypatch, failing
):
    """The kernel tells a lost write to one fsync alone, which may be one under way."""
    sync, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        write_safetensors(tmp_path / "x.safetensors", tensors)
    before = len(calls)
    write_safetensors(tmp_path / "y.safetensors", tensors)
    assert len(calls) >= before + 2  # flushed while it was written, too
