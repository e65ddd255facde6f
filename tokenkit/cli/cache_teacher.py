"""Run a teacher once and keep what ALM needs of it: two floats a token.

    tokenkit cache-teacher --output caches/teacher --job.config_file train_configs/x.toml

Takes the arguments of train.py, reads the rows that the training run will read, and writes a
folder for ``teacher.cache``. Runs in one process.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

from tokenkit.cli.arguments import CommandParser
from tokenkit.config import Config, load_config, validate
from tokenkit.errors import ConfigError
from tokenkit.io import refuse_existing
from tokenkit.log import init_logger, logger


def split_output(argv: list[str]) -> tuple[Path, list[str]]:
    """Take ``--output folder`` out of train.py's arguments."""
    parser = CommandParser(__doc__)
    parser.add_argument("--output", type=Path, required=True)
    args, rest = parser.parse_known_args(argv)
    return args.output, rest


def read_config(argv: list[str]) -> Config:
    """The settings of the training run, without its cache."""
    config = load_config(argv)
    config.teacher.cache = ""
    validate(config, 1)
    return config


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    init_logger()
    output, argv = split_output(sys.argv[1:])
    refuse_existing(output, "--output", "folder")
    fill_cache(read_config(argv), output)


def fill_cache(config: Config, output: Path) -> None:
    """Run the teacher on all rows of the training run."""
    import torch.distributed as dist
    from tqdm.auto import tqdm

    from tokenkit.data import build_train_loader
    from tokenkit.parallelisms import init_parallel
    from tokenkit.training.cache_meta import describe_run, text_steps
    from tokenkit.training.environment import set_up_process
    from tokenkit.training.student import build_student, open_student_source
    from tokenkit.training.teacher import build_teacher, open_teacher_source
    from tokenkit.training.teacher_cache import CacheWriter
    from tokenkit.training.tokenizers import load_tokenizers

    if text_steps(config) < 1:
        raise ConfigError(f"training.steps = {config.training.steps} reads no rows to cache")
    set_up_process(config)
    parallel = init_parallel(config)
    tokenizers = load_tokenizers(config, needs_teacher=True)
    source = open_student_source(config, tokenizers)
    student = build_student(config, source, tokenizers, parallel)
    teacher_source = open_teacher_source(config, tokenizers) or source
    teacher = build_teacher(config, teacher_source, student, tokenizers, parallel)
    loader = build_train_loader(config, tokenizers.student, tokenizers.teacher, (), 0, 1)
    loader.seek(config.hypernet.identity_steps)
    steps = text_steps(config)
    meta = describe_run(config, tokenizers.teacher)  # before the teacher runs for hours
    writer = CacheWriter()
    for step in tqdm(islice(loader, steps), total=steps, desc="teacher", unit="step"):
        for batch in step.micro_batches:
            if not writer.knows(batch.teacher):
                outputs = teacher.read(batch.teacher.to(parallel.device), ("label", "boundary"))
                writer.add(outputs, batch.places)
    writer.save(output, meta)
    logger.info(f"{len(writer):,} rows cached in {output}")
    dist.destroy_process_group()
