"""What a run will need: memory, time, and a layout that fits. Nothing is loaded or downloaded.

    tokenkit plan --job.config_file llama3_to_qwen2 --world-size 8 --device h100

Takes the arguments of train.py and these:

    --world-size N     ranks (default: as the launcher says, else 1)
    --device NAME      a100, h100, h200, b200, mi300x, … or cpu (default: what is here)
    --probe-steps N    train N steps on one device of this machine first, and go by its speed
    --search           look for a faster layout even where the settings fit (a minute or two)
    --json             figures in bytes, FLOPs and seconds, on one line

Of models only config.json is read; shapes of well-known hub ids are in a table. Rows count as full,
layers as not compiled. Memory is of a rank, at the peak of a step.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenkit.cli.arguments import CommandParser, at_least
from tokenkit.config import Config, load_config, settle
from tokenkit.config.components import component_problems
from tokenkit.errors import ConfigError
from tokenkit.log import init_logger
from tokenkit.ranks import world_size

if TYPE_CHECKING:
    from tokenkit.cards import Card
    from tokenkit.planning.probe import Probe

MOST_RANKS = 2**16


def split_options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take the planner's own options out of train.py's arguments."""
    parser = CommandParser(__doc__)
    parser.add_argument("--world-size", type=at_least(1, MOST_RANKS), default=world_size())
    parser.add_argument("--device", default="")
    parser.add_argument("--probe-steps", type=at_least(1, 1000), default=0)
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_known_args(argv)


def find_card(name: str) -> Card | None:
    """The card of an option's value, or of this machine; None: CPUs.

    Raises:
        ConfigError: if its peak and memory are not in the table.
    """
    import torch

    from tokenkit.cards import card_called, card_named

    if name:
        return None if name == "cpu" else card_named(name)
    if not torch.cuda.is_available():
        return None
    found = card_called(torch.cuda.get_device_name())
    if found is None:
        raise ConfigError(
            f"--device: this machine's '{torch.cuda.get_device_name()}' is not in the table; name "
            "one that is like it"
        )
    return found


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    init_logger()
    options, argv = split_options(sys.argv[1:])
    config = load_config(argv)
    settle(config, options.world_size)
    show_plan(
        config,
        options.world_size,
        options.device,
        probe_steps=options.probe_steps,
        search=options.search,
        as_json=options.json,
    )


def show_plan(
    config: Config,
    ranks: int,
    device: str = "",
    *,
    probe_steps: int = 0,
    search: bool = False,
    as_json: bool = False,
) -> None:
    """Print the plan of a run.

    Raises:
        ConfigError, ModelError: if no plan can be made.
    """
    for problem in component_problems(config):
        raise ConfigError(problem)
    for name in ("model", "tokenizer"):
        if not getattr(config.student, name):
            raise ConfigError(f"student.{name} is empty: name one, or a --job.config_file")
    card = find_card(device)
    from tokenkit.planning.plan import make_plan
    from tokenkit.planning.probe import run_probe
    from tokenkit.planning.report import describe

    probe = run_probe(config, probe_steps) if probe_steps else None
    plan = make_plan(config, ranks, card, None if probe is None else probe.efficiency, search)
    if as_json:
        measured = None if probe is None else vars(probe)
        print(json.dumps(plan.as_json() | {"probe": measured}))
        return
    print(describe(plan))
    if probe is not None:
        print(_measured(probe, config, ranks))


def _measured(probe: Probe, config: Config, ranks: int) -> str:
    """What the steps of a probe say of the run."""
    training = config.training
    seconds = training.batch_size * training.max_student_length / probe.tokens_per_second
    hours = seconds / ranks * training.steps / 3600
    share = "" if probe.efficiency is None else f", {probe.efficiency:.0%} of the card's peak"
    return (
        f"measured here on one device: {probe.tokens_per_second:,.0f} student tokens/s{share}, "
        f"{probe.memory_gib:.2f} GiB;\nthe run would take {hours:.1f} hours on {ranks} such devices"
    )
