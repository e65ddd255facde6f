"""What benchmarks share: the machine's name, memory in use, and real text without a download."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SKIPPED = {"test", "tests", "site-packages", "dist-packages"}
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def hardware(threads: int) -> str:
    """Name of the processor and number of threads used."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def peak_bytes() -> int:
    """Most memory this process ever held."""
    try:
        # Unlike ru_maxrss, this forgets what the process was forked from.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int:
    """Memory this process holds now (its peak so far where the system does not tell)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_bytes()
    return pages * os.sysconf("SC_PAGE_SIZE")


def library_text(characters: int) -> str:
    """Sources and documentation of Python's standard library, then of installed packages."""
    pieces: list[str] = []
    total = 0
    for root in (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]):
        skipped = SKIPPED if not pieces else set()
        for path in sorted(Path(root).rglob("*.py")):
            if skipped & set(path.relative_to(root).parts):
                continue
            pieces.append(path.read_text(encoding="utf-8", errors="ignore"))
            total += len(pieces[-1])
            if total >= characters:
                return "".join(pieces)[:characters]
    return "".join(pieces)


def train_bpe(folder: Path, text: str, size: int, words: str = GPT2_WORDS) -> str:
    """A byte-level BPE tokenizer trained on ``text``, saved in ``folder``; returns the folder."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def in_own_process(script: str, words: list[str], env: dict[str, str] | None = None) -> Any:
    """What ``script`` with ``words`` and ``--result FILE`` writes with :func:`leave`.

    Its output is not piped: torch.compile's helper processes would hold a pipe open.

    Raises:
        RuntimeError: if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result"
        command = [sys.executable, script, *words, "--result", str(file)]
        done = subprocess.run(command, env=os.environ | (env or {}))
        if done.returncode:
            raise RuntimeError(f"{Path(script).name} {' '.join(words)} failed")
        return json.loads(file.read_text())


def leave(file: str, result: Any) -> NoReturn:
    """Write a result for :func:`in_own_process`; torch.compile's helpers are not waited for."""
    Path(file).write_text(json.dumps(result))
    os._exit(0)
