"""Let a model go on from a text, answer a chat, or do so for a file of prompts.

    tokenkit generate --model exported/x --prompt "Once upon a time"
    tokenkit generate --model exported/x --chat                      (a conversation)
    tokenkit generate --model exported/x --prompts p.jsonl --batch-size 8 --output texts.jsonl

``--model`` is a model folder, a hub id or a run not yet exported. Greedy, unless a temperature or
a cut (``--top-k``, ``--top-p``, ``--min-p``) is given. A text ends where the model's
``generation_config.json`` says, or before a ``--stop`` string.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tokenkit.cli.arguments import CommandParser, at_least
from tokenkit.errors import ConfigError, DataError
from tokenkit.io import new_file, refuse_existing
from tokenkit.log import init_logger

if TYPE_CHECKING:
    from tokenkit.inference.generate import Continuation
    from tokenkit.inference.model import TextModel
    from tokenkit.inference.prompts import Prompt
    from tokenkit.inference.sampling import Sampling

DTYPES = ("float32", "bfloat16", "float16")


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--model", required=True, help="model folder, hub id or run")
    add("--step", type=int, default=-1, help="checkpoint of a run (-1: latest, 0: as it started)")
    add("--tokenizer", help="tokenizer spec (default: the model's own)")
    add("--dtype", choices=DTYPES, help="of the weights (default: bfloat16 on a GPU, else float32)")
    add("--trust-remote-code", action="store_true", help="run Python code of the model folder")
    parser.add_device()
    given = parser.add_argument_group("prompts")
    given.add_argument("--prompt", help="text to go on from, or the user's turn with --chat")
    given.add_argument(
        "--prompts", type=Path, help="file of many: a line each, or JSONL with prompt or messages"
    )
    given.add_argument("--chat", action="store_true", help="answer, in the model's own template")
    given.add_argument("--system", help="what the system says first, with --chat")
    given.add_argument("--batch-size", type=at_least(1), default=8, help="prompts at a time")
    given.add_argument("--output", type=Path, help="JSONL file to write (new)")
    how = parser.add_argument_group("how the text is chosen, and where it ends")
    how.add_argument("--max-new-tokens", type=int, default=256)
    how.add_argument("--temperature", type=float, help="draw tokens; 0 is greedy")
    how.add_argument("--top-k", type=int, default=0, help="draw from the k likeliest tokens")
    how.add_argument("--top-p", type=float, default=1.0, help="from the likeliest up to this mass")
    how.add_argument("--min-p", type=float, default=0.0, help="from this share of the likeliest on")
    how.add_argument("--repetition-penalty", type=float, default=1.0, help="1: none")
    how.add_argument("--stop", nargs="+", default=[], help="strings that a text is cut before")
    how.add_argument("--seed", type=int, default=0, help="of what is drawn")
    return parser.parse_args()


def sampling_of(args: argparse.Namespace) -> Sampling:
    """How tokens are chosen, checked."""
    from tokenkit.inference.sampling import Sampling

    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    values = {name: getattr(args, name) for name in names}
    return Sampling(**values, stop=tuple(args.stop), seed=args.seed)


def prompts_of(args: argparse.Namespace) -> list[Prompt]:
    """The prompts, [] for a conversation.

    Raises:
        ConfigError: if options do not go together.
        DataError: if the file of prompts cannot be used.
    """
    from tokenkit.inference.prompts import Prompt, as_chat, check_text, read_prompts

    if args.prompt is not None and args.prompts is not None:
        raise ConfigError("--prompt and --prompts: give one of them")
    if args.system is not None:
        check_text(args.system, "--system")
        if not args.chat:
            raise ConfigError("--system goes with --chat")
    if args.prompts is not None:
        return read_prompts(args.prompts, args.chat, args.system)
    if args.prompt is not None:
        text = check_text(args.prompt, "--prompt")
        return [as_chat(text, args.system) if args.chat else Prompt(text)]
    if not args.chat:
        raise ConfigError("nothing to go on from: give --prompt, --prompts or --chat")
    if args.output:
        raise ConfigError("--output needs --prompt or --prompts; a conversation is not written")
    return []


def say(piece: str) -> None:
    print(piece, end="", flush=True)


def converse(model: TextModel, sampling: Sampling, system: str | None) -> None:
    """Answer the lines of the standard input, each with all turns before, until it ends."""
    import torch

    from tokenkit.inference.generate import generate_batch
    from tokenkit.inference.prompts import as_chat, check_text

    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    turns: list[dict] = list(as_chat("", system).messages[:-1])
    shows = sys.stdin.isatty()
    while True:
        try:
            line = input("> " if shows else "")
        except (EOFError, KeyboardInterrupt):
            break
        except UnicodeDecodeError as error:
            raise DataError(f"what you wrote is not valid UTF-8 ({error.reason})") from error
        if not line.strip():
            continue
        turns.append({"role": "user", "content": check_text(line, "what you wrote")})
        (answer,) = generate_batch(
            model, [model.encode_chat(turns)], sampling, lambda _, piece: say(piece)
        )
        print("\n" if shows else "")
        turns.append({"role": "assistant", "content": answer.text})


def answer_all(
    model: TextModel, prompts: list[Prompt], sampling: Sampling, args: argparse.Namespace
) -> None:
    """Print all continuations, one alone as it is written, and write them where asked to."""
    from contextlib import nullcontext

    from tokenkit.inference.generate import generate

    alone = len(prompts) == 1
    ids = [prompt.encode(model) for prompt in prompts]
    found = generate(
        model, ids, sampling, args.batch_size,
        on_text=(lambda _, piece: say(piece)) if alone else (lambda _, piece: None),
    )  # fmt: skip
    with new_file(args.output, keep=True) if args.output else nullcontext() as file:
        for number, (prompt, made) in enumerate(zip(prompts, found, strict=True), 1):
            print("" if alone else f"--- {number}: {shown(prompt)}\n{made.text}", flush=True)
            if file is not None:
                file.write(json.dumps(row_of(prompt, made), ensure_ascii=False) + "\n")


def shown(prompt: Prompt) -> str:
    """The prompt on one short line."""
    text = str(prompt.messages[-1].get("content", "")) if prompt.messages else prompt.text
    text = " ".join(text.split())
    return text if len(text) <= 72 else f"{text[:71]}…"


def row_of(prompt: Prompt, made: Continuation) -> dict:
    """A row of ``--output``: the prompt, the text, how many tokens it took and why it ended."""
    return {**prompt.row(), "text": made.text, "tokens": len(made.ids), "end": made.end}


def main() -> None:
    args = parse_arguments()
    init_logger()
    if args.output:
        refuse_existing(args.output, "--output", "file")
    sampling, prompts = sampling_of(args), prompts_of(args)

    import torch
    from transformers.utils import logging

    from tokenkit.evaluation.device import usable_device
    from tokenkit.export.run import opened_model
    from tokenkit.inference.model import load_text_model
    from tokenkit.tokenizers import load_tokenizer

    logging.disable_progress_bar()
    device = usable_device(args.device)
    with opened_model(args.model, args.step) as folder:
        model = load_text_model(
            folder, device=device, dtype=getattr(torch, args.dtype) if args.dtype else None,
            tok=load_tokenizer(args.tokenizer) if args.tokenizer else None,
            # The code of a folder that was made of a run a moment ago is tokenkit's own.
            trust_remote_code=args.trust_remote_code or folder != args.model,
        )  # fmt: skip
    if args.chat and model.tok.chat is None:
        raise DataError(f"--chat: '{args.model}' has no chat template")
    if prompts:
        answer_all(model, prompts, sampling, args)
    else:
        converse(model, sampling, args.system)
