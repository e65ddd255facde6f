"""Bring here what a run needs of the hub: models, tokenizers, data sets, data of tasks.

    tokenkit fetch --job.config_file train_configs/x.toml

Takes the arguments of train.py, says of each thing whether it is a local path, was here or is
fetched now, and trains nothing. Afterwards the run needs no network: HF_HUB_OFFLINE=1 keeps it from
asking for any. Training fetches by itself, too, once a machine.
"""

from __future__ import annotations

import sys

from tokenkit.config import Config, load_config
from tokenkit.log import init_logger

SAID = {"local": "a local path, left alone", "here": "here already", "fetched": "fetched"}


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    init_logger()
    fetch_for(load_config(sys.argv[1:]))


def fetch_for(config: Config) -> None:
    """Fetch, and print a line for each thing."""
    from tokenkit.evaluation.in_training import load_tasks
    from tokenkit.training.fetch import Need, fetch_all

    def say(need: Need, state: str) -> None:
        print(f"{need.key}: {need.name}: {SAID[state]}", flush=True)

    fetch_all(config, say)
    for name in load_tasks(config).get("tasks", {}):
        print(f"eval.tasks: {name}: its data are here", flush=True)
    if config.data.streaming:
        print("data.streaming = true: hf: data sets are read from the hub while training")
