"""Texts that a model itself writes: data that asks a student to keep what its teacher knows.

    python scripts/sample_texts.py --model M --output own.jsonl --count 500 --start "<|endoftext|>"

Every text is sampled from the model's whole distribution (temperature 1, nothing cut off), from
``--start`` on, or from a line of ``--prompts``. The seed decides all of them. The file appears when
it is whole.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from tokenkit.errors import DataError, run_main
from tokenkit.evaluation.device import default_device, usable_device
from tokenkit.io import new_file, refuse_existing
from tokenkit.models.weights import resolve_model_folder


def openings(args: argparse.Namespace, tokenizer) -> list[str]:
    """What texts begin with, one after another in turn.

    Raises:
        DataError: if the file of prompts cannot be read or is empty.
    """
    if args.prompts is None:
        return [args.start or tokenizer.bos_token or tokenizer.eos_token]
    try:
        lines = args.prompts.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompts {args.prompts}: cannot be read ({error})") from error
    found = [args.start + line for line in lines if line.strip()]
    if not found:
        raise DataError(f"--prompts {args.prompts}: no line has text")
    return found


@torch.no_grad()
def sample(model, tokenizer, prompts: list[str], max_tokens: int) -> list[str]:
    """One text for each prompt, the prompt included, special tokens left out."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    inputs = {k: inputs[k].to(model.device) for k in ("input_ids", "attention_mask")}
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    rows = model.generate(**inputs, max_new_tokens=max_tokens, **options)
    return [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="hub id or local folder")
    parser.add_argument("--output", type=Path, required=True, help="JSONL file to write (new)")
    parser.add_argument("--count", type=int, default=500, help="texts to sample")
    parser.add_argument("--max-tokens", type=int, default=192, help="longest text")
    parser.add_argument("--batch-size", type=int, default=32, help="texts sampled together")
    parser.add_argument("--start", default="", help="what texts begin with (default: BOS, or EOS)")
    parser.add_argument("--prompts", type=Path, help="file of lines that texts go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default=default_device())
    args = parser.parse_args()
    for name in ("count", "max_tokens", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    refuse_existing(args.output, "--output", "file")
    device, folder = usable_device(args.device), resolve_model_folder(args.model)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device)
    starts = openings(args, tokenizer)
    torch.manual_seed(args.seed)
    done = 0
    with new_file(args.output) as file, tqdm(total=args.count) as bar:
        while done < args.count:
            number = min(args.batch_size, args.count - done)
            prompts = [starts[(done + k) % len(starts)] for k in range(number)]
            for text in sample(model, tokenizer, prompts, args.max_tokens):
                if text:
                    file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            done += number
            bar.update(number)
    print(f"{args.output}: {done} texts sampled")


if __name__ == "__main__":
    run_main(main)
