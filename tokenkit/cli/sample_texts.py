"""Texts that a model itself writes: data that asks a student to keep what its teacher knows.

    tokenkit sample-texts --model M --output own.jsonl --count 500 --start "<|endoftext|>"

Every text is sampled from the model's whole distribution (temperature 1, nothing cut off), from
``--start`` on, or from a line of ``--prompts``. With ``--chat``, a chat model also asks itself: it
writes the user's turn behind its template's header, and then answers (as Magpie, arXiv 2406.08464).
The seed decides all of them. The file appears when it is whole.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenkit.cli.arguments import SEED, CommandParser, at_least, said_of
from tokenkit.errors import DataError, TokenizerError
from tokenkit.io import new_file, refuse_existing

MARK = "\U000f0000"  # no template and no text has it


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
    add("--chat", action="store_true", help="questions and answers instead of texts")
    add("--seed", type=at_least(0, SEED), default=0)
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


def sample(
    model, tokenizer, prompts: list[str], max_tokens: int, behind: bool = False
) -> list[str]:
    """One text for each prompt, special tokens left out; without the prompt, if ``behind`` it."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    inputs = {k: inputs[k].to(model.device) for k in ("input_ids", "attention_mask")}
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    rows = model.generate(**inputs, max_new_tokens=max_tokens, **options)
    if behind:
        rows = rows[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True)]


def chats(model, tokenizer, count: int, max_tokens: int) -> list[dict]:
    """Rows of a question and an answer, both by the model."""

    def render(content: str, **options) -> str:
        turn = [{"role": "user", "content": content}]
        return tokenizer.apply_chat_template(turn, tokenize=False, **options)

    header = render(MARK).partition(MARK)[0]
    asked = sample(model, tokenizer, [header] * count, max_tokens, behind=True)
    asked = [question for question in asked if question]
    prompts = [render(question, add_generation_prompt=True) for question in asked]
    answers = sample(model, tokenizer, prompts, max_tokens, behind=True) if asked else []
    roles = ("user", "assistant")
    return [
        {"messages": [{"role": r, "content": c} for r, c in zip(roles, turns, strict=True)]}
        for turns in zip(asked, answers, strict=True)
        if turns[1]
    ]


def batches(args: argparse.Namespace, model, tokenizer) -> Iterator[list[dict]]:
    """The rows of each batch, all batches drawn from one seed."""
    import torch

    starts = openings(args, tokenizer)
    torch.manual_seed(args.seed)
    for done in range(0, args.count, args.batch_size):
        numbers = range(done, min(done + args.batch_size, args.count))
        if args.chat:
            yield chats(model, tokenizer, len(numbers), args.max_tokens)
            continue
        prompts = [starts[number % len(starts)] for number in numbers]
        texts = sample(model, tokenizer, prompts, args.max_tokens)
        yield [{"text": text} for text in texts if text]


def main() -> None:
    args = parse_arguments()
    refuse_existing(args.output, "--output", "file")

    import torch
    from tqdm.auto import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tokenkit.evaluation.device import usable_device
    from tokenkit.models.checks import check_config, read_config
    from tokenkit.models.weights import resolve_model_folder

    device = usable_device(args.device)
    if args.prompts is not None:
        openings(args, None)
    with said_of("--model"):
        folder = resolve_model_folder(args.model)
        check_config(read_config(folder), args.model)
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        except (OSError, ValueError) as error:
            raise TokenizerError(f"'{args.model}' has no tokenizer ({error})") from error
    if args.chat and not tokenizer.chat_template:
        raise DataError(f"--chat: '{args.model}' has no chat template")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device)
    written = 0
    with new_file(args.output, keep=True) as file, tqdm(total=args.count) as bar:
        for rows in batches(args, model, tokenizer):
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += len(rows)
            bar.update(min(args.batch_size, args.count - bar.n))
    print(f"{args.output}: {written} {'chats' if args.chat else 'texts'} sampled")
