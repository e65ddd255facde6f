"""A checkpoint written and verified, beside a plain sequential write of as many bytes.

    python benchmarks/checkpoint.py [--quick] [--gigabytes 1] [--folder DIR]

Both end on the disk (fsync), one after the other in each round; files are deleted between them.
``write`` is all of a save: the look for numbers that are not finite, hashes, manifest, the move to
its name. ``verify`` reads the files back and compares their hashes, which a resume does. ``plain``
writes one block again and again and waits for the disk at the end, as programs do. The last line is
JSON: the median seconds of each, ``write_ratio`` (plain / ours, writing alone) and ``speed_ratio``
(plain / ours, both).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import hardware  # noqa: E402
from tokenkit.config import Config, config_from_dict  # noqa: E402
from tokenkit.parallelisms import init_parallel  # noqa: E402
from tokenkit.training.checkpoint import Checkpointer, find_checkpoints  # noqa: E402
from tokenkit.training.checkpoint.manifest import damage  # noqa: E402

BLOCK = 2**24


def plain_write(path: Path, size: int) -> float:
    """Seconds of a sequential write."""
    block = os.urandom(BLOCK)
    begin = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(size // BLOCK):
            file.write(block)
        file.write(block[: size % BLOCK])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    path.unlink()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the bytes, two rounds")
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", default=None, help="disk to write to (default: temporary)")
    args = parser.parse_args()
    if args.quick:
        args.gigabytes, args.rounds = args.gigabytes / 10, 2
    parallel = init_parallel(Config())
    width = 1024
    layers = max(1, round(args.gigabytes * 1e9 / (3 * 4 * width * width)))  # with Adam's moments
    model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
    optimizer = torch.optim.AdamW(model.parameters())
    seconds: dict[str, list[float]] = {"plain": [], "write": [], "verify": []}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        settings = {"keep_latest_k": 0}
        config = config_from_dict({"job": {"output_dir": name}, "checkpoint": settings})
        checkpointer = Checkpointer(config, model, optimizer, parallel)
        for step in range(1, args.rounds + 1):
            begin = time.perf_counter()
            checkpointer.save(step)
            seconds["write"].append(time.perf_counter() - begin)
            (checkpoint,), _ = find_checkpoints(checkpointer.root)
            files = checkpoint.content["files"]
            begin = time.perf_counter()
            assert damage(checkpoint, list(files)) is None
            seconds["verify"].append(time.perf_counter() - begin)
            size = sum(entry["bytes"] for entry in files.values())
            shutil.rmtree(checkpoint.folder)
            seconds["plain"].append(plain_write(Path(name) / "plain", size))
    dist.destroy_process_group()
    median = {key: statistics.median(values) for key, values in seconds.items()}
    print(f"{hardware(1)}: {size / 1e9:.2f} GB, medians of {args.rounds} rounds")
    for key, value in median.items():
        print(f"{key:<8}{value:>8.3f} s{size / value / 1e9:>8.2f} GB/s")
    ratios = {
        "write_ratio": round(median["plain"] / median["write"], 3),
        "speed_ratio": round(median["plain"] / (median["write"] + median["verify"]), 3),
    }
    rounded = {key: round(value, 4) for key, value in median.items()}
    which = {"of": f"median of {args.rounds} rounds", "bytes": size, "hardware": hardware(1)}
    print(json.dumps({**rounded, **ratios, **which}))


if __name__ == "__main__":
    main()
