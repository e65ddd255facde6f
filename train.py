"""Train: config → tokenizers → losses → models → batches → loop. Started by run_train.sh."""

from __future__ import annotations

import sys
from pathlib import Path

from tokenkit.config import Config, load_config, settle, validate
from tokenkit.config.effects import without_effect
from tokenkit.failure import run_rank, watch_for_failures
from tokenkit.log import init_logger, logger
from tokenkit.processes import end_with_launcher
from tokenkit.ranks import check_launch, rank, world_size
from tokenkit.training.run_lock import RunLock

DRY_RUN = "--dry-run"  # say what the run would need, as `tokenkit plan` does, and end


def main() -> None:
    end_with_launcher()
    check_launch()
    init_logger(rank())
    config = load_config([argument for argument in sys.argv[1:] if argument != DRY_RUN])
    settle(config, world_size())
    if DRY_RUN in sys.argv:
        from tokenkit.cli.plan import show_plan

        if rank() == 0:
            show_plan(config, world_size())
        return
    validate(config, world_size())  # what can be refused is refused before any rank waits
    with RunLock(Path(config.job.output_dir)) as lock:
        train(config, lock)


def train(config: Config, lock: RunLock) -> None:
    """All that follows the settings; the lock is to be taken before anything is written."""
    # These take seconds to import, so --help and a refused key do not wait for them.
    import torch.distributed as dist

    from tokenkit.data import build_train_loader, load_validation_texts
    from tokenkit.evaluation.in_training import Evaluation, load_tasks
    from tokenkit.losses import build_losses, need_teacher, pairings
    from tokenkit.parallelisms import init_parallel
    from tokenkit.planning.start import describe_start
    from tokenkit.tokenizers import load_pair_bias
    from tokenkit.training.checkpoint import Checkpointer
    from tokenkit.training.ends import StopSignal, Watchdog, say_end
    from tokenkit.training.environment import (
        SteadyGarbage,
        any_rank,
        build_profiler,
        set_up_process,
    )
    from tokenkit.training.fetch import fetch_all
    from tokenkit.training.identity import IdentityStep
    from tokenkit.training.metrics import MetricsLogger
    from tokenkit.training.optimizer import (
        build_optimizer,
        scheduled_learning_rate,
        set_learning_rate,
    )
    from tokenkit.training.phases import Phases
    from tokenkit.training.run_directory import (
        check_output_dir,
        claim_output_dir,
        open_output_dir,
    )
    from tokenkit.training.step import TrainStep
    from tokenkit.training.student import build_student, open_student_source
    from tokenkit.training.teacher import build_teacher, open_teacher_source
    from tokenkit.training.throughput import step_flops
    from tokenkit.training.tokenizers import load_tokenizers

    check_output_dir(config)
    set_up_process(config)
    fetch_all(config)  # before anybody waits for others
    parallel = init_parallel(config)
    watch_for_failures()
    stop, watchdog = StopSignal(), Watchdog(config)
    tasks = load_tasks(config)  # unknown ones are refused before anything is written or loaded
    claim_output_dir(config, lock)
    if parallel.is_main:
        for line in without_effect(config, need_teacher(config)):
            logger.warning(line)

    # tokenizers, losses and models
    tokenizers = load_tokenizers(config, need_teacher(config))
    source = open_student_source(config, tokenizers)
    teacher_source = open_teacher_source(config, tokenizers) or source  # itself, by default
    losses = build_losses(
        config, tokenizers.student, tokenizers.teacher, source.width, teacher_source.width
    )
    student = build_student(config, source, tokenizers, parallel, losses)
    teacher = build_teacher(config, teacher_source, student, tokenizers, parallel)

    # batches
    kinds = tuple(sorted({loss.chunk_kind for loss in losses if loss.chunk_kind}))
    pair_bias = load_pair_bias(config.alm.pair_bias) if "unbiased" in kinds else None
    loader = build_train_loader(
        config, tokenizers.student, tokenizers.teacher, kinds, parallel.dp_rank, parallel.dp_size,
        pair_bias=pair_bias, source_rows=student.vocabulary.input.shape[0],
        expander=tokenizers.expander, pairings=pairings(losses),
        known=teacher.known if teacher is not None else None,
    )  # fmt: skip
    validate_texts = load_validation_texts(config) if config.eval.interval else []
    evaluation = Evaluation(config, tokenizers, validate_texts, tasks, student, teacher, parallel)

    # optimizer, checkpoint, metrics
    optimizer = build_optimizer(student, config.optimizer, config.job.seed)
    output_dir = open_output_dir(config, lock)  # all that the settings name was found good
    identity_step = IdentityStep(config, student, optimizer, parallel)
    train_step = TrainStep(config, student, teacher, losses, optimizer, parallel)
    phases = Phases(config, identity_step, train_step)
    checkpointer = Checkpointer(config, student, optimizer, parallel, phases.tensors())
    start_step = checkpointer.load()
    loader.seek(start_step)
    flops = step_flops(config, student, teacher, losses, parallel.dp_size)
    metrics_logger = MetricsLogger(config, output_dir, start_step, parallel.device, flops)
    clock = metrics_logger.clock

    # the loop
    ahead = [] if start_step >= config.training.steps else [next(batches := iter(loader))]
    if parallel.is_main and ahead:
        panel = describe_start(
            config, parallel, tokenizers, student, teacher, loader,
            ahead[0].stats, flops, start_step,
        )  # fmt: skip
        logger.info(f"\n{panel}")
    # That of a resumed step may be missing: it comes after the checkpoint.
    last = start_step >= config.training.steps
    (known,) = any_rank(start_step > 0 and metrics_logger.has_evaluation(start_step))
    if evaluation.due(start_step, last) and not known:
        metrics_logger.log_evaluation(start_step, evaluation(start_step, last))
    garbage = SteadyGarbage(config.training.gc_interval)
    clock.restart()
    step = start_step - 1
    with metrics_logger, build_profiler(config, output_dir) as profiler:
        for step in range(start_step, config.training.steps):
            watchdog.step()
            lr = scheduled_learning_rate(config, step)
            set_learning_rate(optimizer, lr)
            with clock.spent_on("data"):
                batch = (ahead.pop() if ahead else next(batches)).to(parallel.device)
            metrics = phases(batch, step)
            metrics_logger.record(step + 1, metrics, batch.stats, lr, parallel.dp_group)
            if profiler is not None:
                profiler.step()
            garbage.step(step)

            watchdog.stop()
            stopping, overdue = any_rank(bool(stop), checkpointer.overdue)
            last = step + 1 == config.training.steps
            if last or stopping:
                phases.finish()
            if checkpointer.due(step + 1, last or stopping, overdue):
                with clock.spent_on("apart"):
                    checkpointer.save(step + 1, last)
            if stopping:
                break
            if evaluation.due(step + 1, last):
                with clock.spent_on("apart"):
                    metrics_logger.log_evaluation(step + 1, evaluation(step + 1, last))

    checkpointer.finish()
    dist.barrier()
    dist.destroy_process_group()
    say_end(config, start_step, step + 1, stop)


if __name__ == "__main__":
    run_rank(main)
