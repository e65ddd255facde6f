"""Train: config → tokenizers → models → losses → batches → loop. Started by run_train.sh."""

from __future__ import annotations

import importlib
import sys
from itertools import islice
from pathlib import Path

from tokenkit.config import Config, load_config, validate
from tokenkit.errors import ConfigError, run_main
from tokenkit.log import init_logger, logger
from tokenkit.ranks import rank, world_size


def import_custom(modules: list[str]) -> None:
    """Import the user's modules, which register their own components."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(
                f"job.custom_import: cannot import '{module}' ({error}); it must be on PYTHONPATH"
            ) from error


def read_config(argv: list[str]) -> Config:
    """The resolved config; what can be refused is refused here, before any rank waits."""
    config = load_config(argv)
    import_custom(config.job.custom_import)

    from tokenkit.losses import LOSSES

    validate(config, world_size(), known_losses=LOSSES.names())
    return config


def main() -> None:
    init_logger(rank())
    train(read_config(sys.argv[1:]))


def train(config: Config) -> None:
    """All that follows the settings."""
    # These take seconds to import, so --help and a refused key do not wait for them.
    import torch.distributed as dist

    from tokenkit.data import build_train_loader, load_validation_texts
    from tokenkit.evaluation.unseen import Validation
    from tokenkit.losses import LOSSES
    from tokenkit.parallelisms import init_parallel
    from tokenkit.tokenizers import load_pair_bias
    from tokenkit.training.build import (
        boundary_masks,
        build_losses,
        build_student,
        build_teacher,
        load_tokenizers,
        open_student_source,
        open_teacher_source,
    )
    from tokenkit.training.checkpoint import Checkpointer
    from tokenkit.training.environment import StopSignal, build_profiler, set_up_process
    from tokenkit.training.identity import IdentityStep
    from tokenkit.training.metrics import MetricsLogger, flops_per_token
    from tokenkit.training.optimizer import (
        build_optimizer,
        scheduled_learning_rate,
        set_learning_rate,
    )
    from tokenkit.training.run_directory import check_output_dir, prepare_output_dir
    from tokenkit.training.step import TrainStep

    check_output_dir(config)
    set_up_process(config)
    parallel = init_parallel(config)
    stop = StopSignal()
    output_dir = Path(config.job.output_dir)
    if parallel.is_main:
        prepare_output_dir(config)

    # tokenizers, losses and models
    factories = [LOSSES.get(name) for name in config.loss.names]
    tokenizers = load_tokenizers(config, any(factory.needs_teacher for factory in factories))
    source = open_student_source(config, tokenizers)
    teacher_source = open_teacher_source(config, tokenizers)
    losses = build_losses(config, factories, tokenizers, source, teacher_source)
    student = build_student(config, source, tokenizers, parallel, losses)
    teacher = build_teacher(config, teacher_source or source, student, tokenizers, parallel)

    # batches
    masks = boundary_masks(config, student, teacher, tokenizers, losses, parallel.device)
    kinds = tuple(sorted({loss.chunk_kind for loss in losses if loss.chunk_kind}))
    pair_bias = load_pair_bias(config.alm.pair_bias) if "unbiased" in kinds else None
    identity_steps = config.hypernet.identity_steps  # they come first and read no texts
    accumulation = config.training.batch_size // (
        config.training.micro_batch_size * parallel.dp_size
    )

    def loader_from(start_step: int):
        return build_train_loader(
            config, tokenizers.student, tokenizers.teacher, kinds, parallel.dp_rank,
            parallel.dp_size, pair_bias=pair_bias, source_rows=student.vocabulary.input.shape[0],
            start_step=max(0, start_step - identity_steps),
        )  # fmt: skip

    loader = loader_from(0)
    validate_texts = load_validation_texts(config) if config.eval.interval else []
    validation = Validation(config, tokenizers.student, validate_texts, student, parallel)

    # optimizer, checkpoint, metrics
    optimizer = build_optimizer(student, config.optimizer)
    step_fn = TrainStep(config, student, teacher, losses, masks, optimizer, parallel)
    identity_step = IdentityStep(config, student, optimizer, parallel)
    layout = {"dp_size": parallel.dp_size, "accumulation": accumulation,
              "workers": config.data.num_workers}  # fmt: skip
    checkpointer = Checkpointer(
        config.checkpoint, output_dir, student, optimizer, loader, parallel, step_fn.tensors()
    )
    start_step, positioned = checkpointer.load(layout)
    if start_step and not positioned:
        loader = checkpointer.loader = loader_from(start_step)
    metrics_logger = MetricsLogger(
        config, output_dir, start_step, parallel.device, flops_per_token(student)
    )

    # the loop
    batches = iter(loader)
    with build_profiler(config, output_dir) as profiler:
        for step in range(start_step, config.training.steps):
            lr = scheduled_learning_rate(config, step)
            set_learning_rate(optimizer, lr)
            if step < identity_steps:
                micro_batches = []
                metrics, stopping = identity_step(step, stop=bool(stop))
            else:
                micro_batches = [b.to(parallel.device) for b in islice(batches, accumulation)]
                metrics, stopping = step_fn(micro_batches, step, stop=bool(stop))
            metrics_logger.record(step + 1, metrics, micro_batches, lr, parallel.dp_group)
            if profiler is not None:
                profiler.step()

            last = stopping or step + 1 == config.training.steps
            if validation.due(step + 1, last):
                metrics_logger.log_evaluation(step + 1, validation(student))
            if (step + 1) % config.checkpoint.interval == 0 or last:
                checkpointer.save(step + 1, layout)
            if stopping:
                break

    checkpointer.finish()
    metrics_logger.close()
    dist.barrier()
    dist.destroy_process_group()
    logger.info(f"done: {output_dir}")


if __name__ == "__main__":
    run_main(main)
