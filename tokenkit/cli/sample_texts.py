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
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tokenkit.cli.arguments import SEED, CommandParser, at_least, said_of
from tokenkit.errors import ConfigError, DataError
from tokenkit.io import new_file, refuse_existing

if TYPE_CHECKING:
    from tokenkit.inference.model import TextModel

MARK = "\U000f0000"  # no template and no text has it


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--model", required=True, help="model folder, hub id or run")
    add("--output", type=Path, required=True, help="JSONL file to write (new)")
    add("--count", type=at_least(1), default=500, help="texts to sample")
    add("--max-tokens", type=at_least(1), default=192, help="longest text")
    add("--batch-size", type=at_least(1), default=32, help="texts sampled together")
    add("--start", default="", help="what texts begin with (default: BOS, or EOS)")
    add("--prompts", type=Path, help="lines, or JSONL, that texts go on from")
    add("--chat", action="store_true", help="questions and answers instead of texts")
    add("--seed", type=at_least(0, SEED), default=0)
    parser.add_device()
    return parser.parse_args()


def openings(start: str, prompts: list[str], model: TextModel) -> list[list[int]]:
    """Ids that texts begin with, one after another in turn; as ``tokenkit generate`` reads them."""
    tok = model.tok
    if not (start or prompts):
        return [[tok.eos_id if tok.bos_id is None else tok.bos_id]]
    return [model.encode_prompt(start + prompt) for prompt in prompts or [""]]


def sample(model: TextModel, starts: list[list[int]], max_tokens: int) -> list[str]:
    """What the model writes behind each start."""
    from tokenkit.inference.generate import generate_batch
    from tokenkit.inference.own_texts import whole_distribution

    return [made.text for made in generate_batch(model, starts, whole_distribution(max_tokens))]


def chats(model: TextModel, count: int, max_tokens: int) -> list[dict]:
    """Rows of a question and an answer, both by the model."""

    def render(content: str, **options) -> str:
        turn = [{"role": "user", "content": content}]
        return model.tok.hf.apply_chat_template(turn, tokenize=False, **options)

    header = model.tok.encode_text(render(MARK).partition(MARK)[0])
    asked = [question.strip() for question in sample(model, [header] * count, max_tokens)]
    asked = [question for question in asked if question]
    prompts = [
        model.tok.encode_text(render(question, add_generation_prompt=True)) for question in asked
    ]
    answers = sample(model, prompts, max_tokens) if asked else []
    roles = ("user", "assistant")
    return [
        {"messages": [{"role": r, "content": c} for r, c in zip(roles, turns, strict=True)]}
        for turns in zip(asked, map(str.strip, answers), strict=True)
        if turns[1]
    ]


def batches(args: argparse.Namespace, prompts: list[str], model: TextModel) -> Iterator[list[dict]]:
    """The rows of each batch, all batches drawn from one seed."""
    import torch

    starts = openings(args.start, prompts, model)
    torch.manual_seed(args.seed)
    for done in range(0, args.count, args.batch_size):
        numbers = range(done, min(done + args.batch_size, args.count))
        if args.chat:
            yield chats(model, len(numbers), args.max_tokens)
            continue
        given = [starts[number % len(starts)] for number in numbers]
        texts = zip(given, sample(model, given, args.max_tokens), strict=True)
        whole = [(model.spelling.text(start) + text).strip() for start, text in texts]
        yield [{"text": text} for text in whole if text]


def main() -> None:
    args = parse_arguments()
    if args.chat and (args.start or args.prompts):
        option = "--start" if args.start else "--prompts"
        raise ConfigError(
            f"{option} with --chat: chats begin with the model's template; leave one of them out"
        )
    refuse_existing(args.output, "--output", "file")

    import torch
    from tqdm.auto import tqdm

    from tokenkit.evaluation.device import usable_device
    from tokenkit.export.run import opened_model
    from tokenkit.inference.model import load_text_model
    from tokenkit.inference.prompts import read_texts_of
    from tokenkit.models.expanded_folder import is_expanded
    from tokenkit.models.weights import resolve_model_folder

    device = usable_device(args.device)
    prompts = [] if args.prompts is None else read_texts_of(args.prompts)
    with said_of("--model"), opened_model(args.model) as folder:
        is_expanded(resolve_model_folder(folder))  # then transformers has been told of its class
        model = load_text_model(folder, device=device, dtype=torch.bfloat16)
    if args.chat and model.tok.chat is None:
        raise DataError(f"--chat: '{args.model}' has no chat template")
    written = 0
    hidden = not sys.stderr.isatty()
    with new_file(args.output, keep=True) as file, tqdm(total=args.count, disable=hidden) as bar:
        for rows in batches(args, prompts, model):
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += len(rows)
            bar.update(min(args.batch_size, args.count - bar.n))
    print(f"{args.output}: {written} {'chats' if args.chat else 'texts'} sampled")
