"""Run a teacher once and keep what ALM needs of it: two floats a token.

    tokenkit cache-teacher --output caches/teacher --job.config_file train_configs/x.toml

Takes the arguments of train.py, reads the rows that the training run will read, and writes a folder
for ``teacher.cache``. On several GPUs or machines torchrun starts it, as it starts training; the
number of processes need not be that of the run:

    torchrun --nproc-per-node=8 -m tokenkit cache-teacher --output ... --job.config_file ...

It writes shard by shard. The same command goes on where one was stopped or killed.

  --output FOLDER       the cache; until it is whole, it is FOLDER.partial
  --scores DTYPE        float32 (8 bytes a token, the default) or bfloat16 (4)
  --rows-per-shard N    what a kill can cost each process (default: about a million tokens)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenkit.cli.arguments import CommandParser, at_least
from tokenkit.config import Config, load_config, settle, validate, with_whole_paths
from tokenkit.errors import ConfigError, TokenkitError
from tokenkit.failure import watch_for_failures
from tokenkit.io import refuse_existing
from tokenkit.log import init_logger, logger
from tokenkit.processes import end_with_launcher
from tokenkit.ranks import check_launch, rank, world_size

if TYPE_CHECKING:
    from tokenkit.data.order import Order
    from tokenkit.parallelisms import Parallel
    from tokenkit.tokenizers import ByteifiedTokenizer
    from tokenkit.training.teacher import Teacher
    from tokenkit.training.teacher_cache import CacheWriter

SHARD_TOKENS = 2**20


def read_arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """This command's own options, and train.py's arguments."""
    parser = CommandParser(__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scores", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rows-per-shard", type=at_least(1), default=0)
    return parser.parse_known_args(argv)


def read_config(argv: list[str]) -> Config:
    """The settings of the training run, without its cache."""
    config = load_config(argv)
    config.teacher.cache = ""
    settle(config, world_size())
    layout = config.copy()  # how many rows a step of training has is nothing to these ranks
    layout.training.batch_size = config.training.micro_batch_size * world_size()
    validate(layout, world_size())
    return config


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    end_with_launcher()
    check_launch()
    init_logger(rank())
    options, argv = read_arguments(sys.argv[1:])
    refuse_existing(options.output, "--output", "folder")
    fill_cache(with_whole_paths(read_config(argv)), options)  # it is read from anywhere


def fill_cache(config: Config, options: argparse.Namespace) -> None:
    """Run the teacher on all rows of the training run."""
    import torch.distributed as dist

    from tokenkit.data.mixing import build_order
    from tokenkit.parallelisms import init_parallel
    from tokenkit.tokenizers import joint_form
    from tokenkit.training.environment import on_first_rank, set_up_process
    from tokenkit.training.fetch import fetch_all
    from tokenkit.training.student import open_student_source
    from tokenkit.training.teacher import build_teacher, open_teacher_source
    from tokenkit.training.teacher_cache import CacheWriter
    from tokenkit.training.teacher_cache.meta import describe_run
    from tokenkit.training.tokenizers import load_tokenizers

    set_up_process(config)
    fetch_all(config)
    parallel = init_parallel(config)
    watch_for_failures()
    tokenizers = load_tokenizers(config, needs_teacher=True)
    form = joint_form(tokenizers.teacher, tokenizers.student)
    source = open_teacher_source(config, tokenizers) or open_student_source(config, tokenizers)
    order = build_order(config, keyed=True)
    writer = CacheWriter(options.output, parallel.dp_rank)

    def begin() -> None:  # before the teacher runs for hours
        described = describe_run(config, tokenizers.teacher, form)
        writer.begin({**described, **rows_to_cache(config, order, options, parallel.dp_size)})

    on_first_rank(begin)
    try:
        writer.open()
        dist.barrier()  # nobody writes before all have seen what is there
        teacher = build_teacher(config, source, None, tokenizers, parallel)
        write_shards(config, parallel, teacher, writer, (tokenizers.teacher, form, order))
        dist.barrier()
        on_first_rank(lambda: verify(writer, config.metrics.progress))
    except TokenkitError:
        writer.drop_if_empty()
        raise
    dist.destroy_process_group()


def rows_to_cache(
    config: Config, order: Order, options: argparse.Namespace, ranks: int
) -> dict[str, Any]:
    """Which rows the run reads and how they lie in shards, as ``meta.json`` says it.

    Raises:
        ConfigError: if there are none.
    """
    from tokenkit.training.teacher_cache.meta import text_steps

    if text_steps(config) < 1:
        raise ConfigError(f"training.steps = {config.training.steps} reads no rows to cache")
    rows = order.first_places(text_steps(config) * config.training.batch_size)
    size = options.rows_per_shard
    if not size:  # enough shards that every rank has some
        size = max(1, SHARD_TOKENS // config.training.max_teacher_length)
        size = min(size, -(-sum(rows) // ranks))
    whole = order.pass_length is not None and sum(rows) == order.pass_length
    return {"rows": rows, "whole": whole, "shard_rows": size, "scores": options.scores}


def write_shards(
    config: Config,
    parallel: Parallel,
    teacher: Teacher,
    writer: CacheWriter,
    texts: tuple[ByteifiedTokenizer, str, Order],
) -> None:
    """Let the teacher read what is missing: in each round every data-parallel rank has a shard.

    Args:
        texts: the tokenizer that reads them, their Unicode form, and their order.
    """
    from tqdm.auto import tqdm

    from tokenkit.data.stretches import Stretch, build_stretches_loader
    from tokenkit.training.teacher_cache.filling import read_stretch, rows_in_passes

    ranks, size = parallel.dp_size, config.training.micro_batch_size
    missing = writer.missing
    rounds = [missing[at : at + ranks] for at in range(0, len(missing), ranks)]
    mine: list[Stretch | None] = [dict(enumerate(them)).get(parallel.dp_rank) for them in rounds]
    loader = build_stretches_loader(config, *texts, mine, parallel.dp_rank, ranks)
    total, left = sum(writer.plan.rows), sum(len(stretch.places) for stretch in missing)
    if left < total:
        logger.info(f"{total - left:,} of {total:,} rows were cached before: going on")
    writes = parallel.is_first_of_rows
    hidden = not (parallel.is_main and config.metrics.progress and sys.stderr.isatty())
    with tqdm(desc="teacher", unit="row", total=total, initial=total - left, disable=hidden) as bar:
        for together, stretch, step in zip(rounds, mine, loader, strict=False):
            rows = rows_in_passes(together, size)
            scores = None if stretch is None else writer.collect(stretch)
            read = read_stretch(teacher, step, len(rows), parallel.device)
            for count, (batch, outputs) in zip(rows, read, strict=True):
                if scores is not None:
                    scores.add(batch, outputs)
                bar.update(count)
            if scores is not None and stretch is not None and writes:
                writer.write(stretch, scores)
    loader.close()


def verify(writer: CacheWriter, shows: bool) -> None:
    """Compare all hashes, and give the cache its name."""
    from tqdm.auto import tqdm

    count = len(writer.plan.shards())
    with tqdm(
        desc="verify", unit="file", total=count, disable=not (shows and sys.stderr.isatty())
    ) as bar:
        meta = writer.finish(bar.update)
    size = sum(path.stat().st_size for path in writer.output.iterdir())
    logger.info(
        f"{sum(meta['rows']):,} rows, {meta['tokens']:,} tokens in all, cached in {writer.output}, "
        f"{size / max(1, meta['tokens']):.2f} bytes a token"
    )
