"""FVT from one large vocabulary to another, in bf16: time and memory.

    python benchmarks/fvt.py [--quick] [--source SPEC --target SPEC] [--width 4096]

Without specs, Llama 3's and Qwen 2.5's tokenizers are used if ``TOKENKIT_TOKENIZERS`` names a
folder that has them (``llama3``, ``qwen2_5``); otherwise two of 131,072 and 151,552 tokens are
trained. With ``--quick``, two of 32,768 are.

Time is that of planning and of making one matrix, tokenizers and the old matrix given. Memory is
the most that a process of its own takes for it beyond what it held with the tokenizers loaded and
the matrices not yet made, relative to the size of the old and the new matrix. The last line is
JSON: ``seconds`` and ``memory_ratio``.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import hardware, peak_bytes, resident_bytes  # noqa: E402
from benchmarks.mined import train_pair  # noqa: E402
from tokenkit.tokenizers import load_tokenizer  # noqa: E402
from tokenkit.transfer.fvt import fvt  # noqa: E402
from tokenkit.transfer.new_rows import CHUNK_ROWS  # noqa: E402


def measure(source: str, target: str, width: int) -> dict[str, object]:
    """What this process takes; it must not have made anything large before."""
    source_tok, target_tok = load_tokenizer(source), load_tokenizer(target)
    before = resident_bytes()
    matrix = torch.empty(len(source_tok), width, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    for rows in matrix.split(CHUNK_ROWS // 2):
        rows.copy_(torch.randn(rows.shape, generator=generator))
    begin = time.perf_counter()
    made, report = fvt(source_tok, target_tok, [matrix])
    seconds = time.perf_counter() - begin
    both = matrix.nbytes + made[0].nbytes
    return {
        "seconds": round(seconds, 2),
        "memory_ratio": round((peak_bytes() - before) / both, 3),
        "matrix_bytes": both,
        "sizes": [len(source_tok), len(target_tok)],
        "report": report,
    }


def measure_in_child(source: str, target: str, width: int) -> dict[str, object]:
    command = [sys.executable, __file__, "--child"]
    command += ["--source", source, "--target", target, "--width", str(width)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def specs(folder: Path, quick: bool) -> tuple[str, str]:
    """Real tokenizers if there are any, else trained ones."""
    real = Path(os.environ.get("TOKENKIT_TOKENIZERS", ""))
    pair = (real / "llama3", real / "qwen2_5")
    if not quick and all(path.is_dir() for path in pair):
        return f"{pair[0]}:source=Llama3", f"{pair[1]}:source=Qwen2"
    return train_pair(folder, quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small vocabularies")
    parser.add_argument("--source", help="tokenizer spec")
    parser.add_argument("--target", help="tokenizer spec")
    parser.add_argument("--width", type=int, default=4096, help="hidden size")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if args.child:
        print(json.dumps(measure(args.source, args.target, args.width)))
        return
    with tempfile.TemporaryDirectory() as folder:
        given = args.source and args.target
        pair = (args.source, args.target) if given else specs(Path(folder), args.quick)
        result = measure_in_child(*pair, args.width)
    where = hardware(torch.get_num_threads())
    old, new = result["sizes"]
    print(
        f"{where}: {old:,} to {new:,} rows of {args.width:,} in {result['seconds']} s; "
        f"{result['memory_ratio']} times the memory of the two matrices"
    )
    print(", ".join(f"{count:,} {origin}" for origin, count in result["report"].items()))
    keys = ("seconds", "memory_ratio")
    print(json.dumps({key: result[key] for key in keys} | {"width": args.width, "hardware": where}))


if __name__ == "__main__":
    main()
