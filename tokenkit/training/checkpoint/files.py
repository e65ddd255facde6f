"""Safetensors files written as they are hashed, and hashes of files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

BLOCK = 2**22  # bytes hashed and written together: in the processor's cache both times
FLUSH = 2**26  # bytes sent on to the disk while more are written
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def _bytes_of(tensor: Tensor) -> Any:
    """A tensor's memory, a uint8 array ``[n]``; copied where it is elsewhere or not contiguous."""
    flat = tensor.detach().to("cpu").contiguous().flatten()
    return flat.view(torch.uint8).numpy()


def _blocks(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The bytes of a safetensors file, in order."""
    # Large items first, so that each begins at a multiple of its size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        shape, dtype = list(tensor.shape), DTYPES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    for data in (len(text).to_bytes(8, "little") + text, *(tensors[name] for name in names)):
        view = memoryview(_bytes_of(data) if isinstance(data, Tensor) else data)
        for begin in range(0, len(view), BLOCK):
            yield view[begin : begin + BLOCK]


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a file, to the disk; returns its hash.

    The library's writer would have the file read a second time for its hash, and the disk wait
    until all of it is in memory.

    Raises:
        OSError: if it cannot be written.
    """
    digest = xxhash.xxh3_128()
    hashed: Future[None] | None = None
    flushed: Future[None] | None = None
    waiting = 0
    # Hashing, writing and flushing let go of the interpreter, so that each runs beside the others.
    with path.open("wb", buffering=0) as file, ThreadPoolExecutor(2) as beside:
        for block in _blocks(tensors):
            if hashed is not None:
                hashed.result()  # no more than one block is waiting
            hashed = beside.submit(digest.update, block)
            waiting += len(block)
            while len(block):
                block = block[file.write(block) :]
            if waiting >= FLUSH and (flushed is None or flushed.done()):
                if flushed is not None:
                    flushed.result()  # a disk tells its error once
                flushed, waiting = beside.submit(os.fsync, file.fileno()), 0
        if flushed is not None:
            flushed.result()
        os.fsync(file.fileno())
    return digest.hexdigest()


def hash_of(path: Path) -> str:
    """A file's hash, as :func:`write_safetensors` returns it.

    Raises:
        OSError: if it cannot be read.
    """
    digest = xxhash.xxh3_128()
    block = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()


def write_json(path: Path, value: object) -> str:
    """Write a small file, to the disk; returns its hash."""
    data = json.dumps(value).encode()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return xxhash.xxh3_128(data).hexdigest()
