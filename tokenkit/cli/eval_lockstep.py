"""Run lm-eval tasks on several models as one: they read and write in lockstep.

    tokenkit eval-lockstep --config lockstep.toml --tasks arc_easy,gsm8k

    [ensemble]
    combine = "mean_prob"             # mean_logits | mean_logprob | mined_pivot
    tasks = ["arc_easy"]              # and other options of this command
    [[models]]
    model = "exported/gemma_to_qwen"  # folder, hub id, or a run not yet exported
    weight = 2.0
    [[models]]
    model = "Qwen/Qwen2.5-1.5B-Instruct"
    device = "cuda:1"

The first model is the pivot, whose tokens the ensemble writes. Models must share their regular
tokens; special tokens and chat templates may differ (docs/evaluation.md).
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli

from tokenkit.cli.arguments import CommandParser
from tokenkit.cli.eval import add_task_options, check_options, evaluate, report
from tokenkit.errors import ConfigError, ModelError
from tokenkit.extras import need_extra
from tokenkit.log import init_logger
from tokenkit.ranks import world_size
from tokenkit.registry import did_you_mean

if TYPE_CHECKING:
    from tokenkit.inference.ensemble import Ensemble


@dataclass
class ModelSettings:
    """A ``[[models]]`` table."""

    model: str = ""
    tokenizer: str = ""
    weight: float = 1.0
    device: str = ""
    dtype: str = ""
    step: int = -1


def parse_arguments() -> tuple[argparse.Namespace, list[ModelSettings], str]:
    """Options, models and the way they are combined.

    Raises:
        ConfigError: naming what is wrong in the file.
    """
    parser = CommandParser(__doc__)
    parser.add_argument("--config", required=True, type=Path, help="TOML file of the ensemble")
    add_task_options(parser, tasks_required=False)
    config = parser.parse_args().config
    models, ensemble = read_file(config)
    combine = ensemble.pop("combine", "mean_prob")
    known = vars(parser.parse_args()).keys() - {"config"}
    for name, value in ensemble.items():
        if name not in known:
            hint = did_you_mean(name, sorted({*known, "combine"}))
            raise ConfigError(f"{config}: [ensemble] has no key '{name}'{hint}")
        value = ",".join(value) if isinstance(value, list) else value
        # Strings are read as the command line's are.
        value = Path(value) if name == "output" else value
        parser.set_defaults(**{name: str(value) if name == "batch_size" else value})
    args = parser.parse_args()
    if not args.tasks:
        raise ConfigError(f"no tasks: name some by --tasks, or in [ensemble] of {config}")
    return args, models, combine


def read_file(path: Path) -> tuple[list[ModelSettings], dict[str, Any]]:
    """Models and the table ``[ensemble]`` of a TOML file.

    Raises:
        ConfigError: if it cannot be read, or has a key that there is not.
    """
    try:
        values = tomli.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomli.TOMLDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}") from error
    for name in values.keys() - {"models", "ensemble"}:
        raise ConfigError(f"{path}: unknown table '{name}'; expected [[models]] and [ensemble]")
    tables = values.get("models", [])
    if not isinstance(tables, list) or not tables:
        raise ConfigError(f"{path} names no models: each is a table [[models]] with model = ...")
    kinds = {field.name: field.default for field in fields(ModelSettings)}
    for table in tables:
        for name, value in table.items():
            if name not in kinds:
                hint = did_you_mean(name, list(kinds))
                raise ConfigError(f"{path}: [[models]] has no key '{name}'{hint}")
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number if isinstance(kinds[name], str) else not number:
                raise ConfigError(
                    f"{path}: [[models]] {name} = {value!r}: expected a "
                    f"{'text' if isinstance(kinds[name], str) else 'number'}"
                )
        if not table.get("model"):
            raise ConfigError(f"{path}: a table [[models]] has no model = ...")
        if not isinstance(table.get("step", -1), int):
            raise ConfigError(f"{path}: [[models]] step = {table['step']} is not an integer")
        if not 0 < table.get("weight", 1.0) < math.inf:
            raise ConfigError(f"{path}: weight = {table['weight']} is not a finite number above 0")
    return [ModelSettings(**table) for table in tables], values.get("ensemble", {})


def open_ensemble(args: argparse.Namespace, models: list[ModelSettings], combine: str) -> Ensemble:
    """All models, each on its device.

    Raises:
        TokenkitError: if one cannot be opened, or they do not fit together.
    """
    from tokenkit.evaluation.device import usable_device
    from tokenkit.evaluation.lm_eval_model import open_folder
    from tokenkit.export.run import opened_model
    from tokenkit.inference.ensemble import COMBINATIONS, Ensemble
    from tokenkit.models.checks import check_token_rows
    from tokenkit.tokenizers import load_tokenizer

    if combine not in COMBINATIONS:
        raise ConfigError(
            f"[ensemble] combine = '{combine}' is none of {', '.join(COMBINATIONS)}"
            f"{did_you_mean(combine, list(COMBINATIONS))}"
        )
    parts = []
    for settings in models:
        device = usable_device(settings.device or args.device)
        with opened_model(settings.model, settings.step) as name:
            # The code of a folder that was made of a run a moment ago is tokenkit's own.
            trusted = args.trust_remote_code or name != settings.model
            model, tokenizer, folder = open_folder(name, settings.dtype or args.dtype, trusted)
            tok = load_tokenizer(settings.tokenizer or str(folder))
            rows = len(model.get_input_embeddings().weight)
            check_token_rows(tok, rows, settings.model, as_it_is=True)
        parts.append((settings.model, model.to(device), tokenizer, tok, float(settings.weight)))
    return Ensemble(parts, combine)


def main() -> None:
    init_logger()
    args, models, combine = parse_arguments()
    check_options(args)
    need_extra("eval", "tokenkit eval-lockstep")
    if world_size() > 1:
        raise ConfigError("eval-lockstep is one process: start it without torchrun")

    from tokenkit.evaluation.lockstep import LockstepLM
    from tokenkit.evaluation.tasks import find_tasks

    names, tasks = find_tasks(args.tasks.split(","), args.include_path)
    try:
        ensemble = open_ensemble(args, models, combine)
    except ModelError as error:
        raise ModelError(f"{args.config}: {error}") from error
    model = LockstepLM(ensemble, batch_size=args.batch_size, max_bytes=args.max_bytes)
    report(args, evaluate(args, model, names, tasks))
