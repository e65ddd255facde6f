"""Speed of ``tokenkit eval``'s model beside lm-eval's own ``hf``, on the same requests in one run.

    python benchmarks/eval.py [--quick] [--model FOLDER]

Without a model, a small Llama with a tokenizer of 8,192 tokens is made. Both answer multiple
choice, generation and whole documents, in turns. The last line is JSON: CPU seconds of each, and
``speed``, the harness's time divided by ours (the least of the kinds).
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

from benchmarks.common import hardware, library_text, train_bpe  # noqa: E402
from tokenkit.evaluation.lm_eval_model import TokenkitLM  # noqa: E402
from tokenkit.tokenizers import load_tokenizer  # noqa: E402


def small_model(folder: Path) -> str:
    """A Llama of 256 dimensions and four layers."""
    tok = load_tokenizer(
        train_bpe(folder / "bpe", library_text(2_000_000), 8192) + ":source=Llama3"
    )
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tok), hidden_size=256, intermediate_size=704, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        bos_token_id=tok.bos_id, eos_token_id=tok.eos_id, pad_token_id=tok.pad_id,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tok.save(folder / "model")
    return str(folder / "model")


def requests_of(count: int) -> dict[str, list[SimpleNamespace]]:
    """What the harness would ask, by kind."""
    lines = [line.strip() for line in library_text(400_000).splitlines() if len(line) > 60]
    lines = [line for line in lines if len(line) > 40]
    pairs = [(line[:30], ending) for line in lines[:count] for ending in (line[30:], " no", " yes")]
    greedy = {"until": ["\n\n"], "max_gen_toks": 24, "do_sample": False}
    documents = ["\n".join(lines[20 * i : 20 * i + 20]) for i in range(count // 4)]
    kinds = {
        "loglikelihood": pairs,
        "generate_until": [(line, dict(greedy)) for line in lines[: count // 2]],
        "loglikelihood_rolling": [(text,) for text in documents],
    }
    return {
        kind: [SimpleNamespace(args=args, task_name="") for args in asked]
        for kind, asked in kinds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer requests and turns")
    parser.add_argument("--model", help="folder of a model")
    args = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = args.model or small_model(Path(folder))
        options = {"dtype": "float32", "device": "cpu", "batch_size": 8}
        models = {"hf": HFLM(path, **options), "tokenkit": TokenkitLM(path, **options)}
        _ = models["tokenkit"].tok
    took: dict[str, dict[str, list[float]]] = {}
    for kind, asked in requests_of(32 if args.quick else 96).items():
        took[kind] = {name: [] for name in models}
        for turn in range(3 if args.quick else 5):
            for name in sorted(models, reverse=bool(turn % 2)):
                begin = time.process_time()
                getattr(models[name], kind)(asked, disable_tqdm=True)
                took[kind][name].append(time.process_time() - begin)
    seconds = {
        kind: {name: round(statistics.median(runs), 3) for name, runs in both.items()}
        for kind, both in took.items()
    }
    for kind, both in seconds.items():
        print(f"{kind}: hf {both['hf']:.2f} s, tokenkit {both['tokenkit']:.2f} s")
    speed = min(both["hf"] / both["tokenkit"] for both in seconds.values())
    threads = torch.get_num_threads()
    print(json.dumps({"speed": round(speed, 3), **seconds, "hardware": hardware(threads)}))


if __name__ == "__main__":
    main()
