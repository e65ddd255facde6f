"""Texts that a model itself writes: data that asks a student to keep what its teacher knows.

    tokenkit sample-texts --model M --output own.jsonl --count 500 --start "<|endoftext|>"

Every text is sampled from the model's whole distribution (temperature 1, nothing cut off), from
``--start`` on, or from a line of ``--prompts``. The seed decides all of them. The file appears when
it is whole.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenkit.cli.arguments import CommandParser, at_least
from tokenkit.errors import DataError
from tokenkit.io import new_file, refuse_existing


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--model", required=True, help="hub id or local folder")
    add("--output", type=Path, required=True, help="JSONL file to write (new)")
    add("--count", type=at_least(1), default=500, help="texts to sample")
    add("--max-tokens", type=at_least(1), default=192, help="longest text")
    add("--batch-size", type=at_least(1), default=32, help="texts sampled together")
    add("--start", default="", help="what texts begin with (default: BOS, or EOS)")
    add("--prompts", type=Path, help="file of lines that texts go on from")
    add("--seed", type=int, default=0)
    parser.add_device()
    return parser.parse_args()


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


def sample(model, tokenizer, prompts: list[str], max_tokens: int) -> list[str]:
    """One text for each prompt, the prompt included, special tokens left out."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    inputs = {k: inputs[k].to(model.device) for k in ("input_ids", "attention_mask")}
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    rows = model.generate(**inputs, max_new_tokens=max_tokens, **options)
    return [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]


def batches(args: argparse.Namespace, model, tokenizer) -> Iterator[list[str]]:
    """The texts of each batch, all batches drawn from one seed."""
    import torch

    starts = openings(args, tokenizer)
    torch.manual_seed(args.seed)
    for done in range(0, args.count, args.batch_size):
        numbers = range(done, min(done + args.batch_size, args.count))
        prompts = [starts[number % len(starts)] for number in numbers]
        yield sample(model, tokenizer, prompts, args.max_tokens)


def main() -> None:
    args = parse_arguments()
    refuse_existing(args.output, "--output", "file")

    import torch
    from tqdm.auto import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tokenkit.evaluation.device import usable_device
    from tokenkit.models.weights import resolve_model_folder

    device, folder = usable_device(args.device), resolve_model_folder(args.model)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device)
    with new_file(args.output) as file, tqdm(total=args.count) as bar:
        for texts in batches(args, model, tokenizer):
            for text in filter(None, texts):
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            bar.update(len(texts))
    print(f"{args.output}: {args.count} texts sampled")
