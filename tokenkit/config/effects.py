"""Settings that are possible, but do nothing: said in a warning, since they may be meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tokenkit.config.keys import all_keys, value_of
from tokenkit.config.load import to_toml
from tokenkit.config.schema import Config

# Keys (or whole sections), when they are read, and what would have them read
_READ: list[tuple[tuple[str, ...], Callable[[Config], object], str]] = [
    (("lora",), lambda c: c.student.train == "lora", 'student.train = "lora"'),
    (("tokenizer_sampler",), lambda c: c.tokenizer_sampler.enable, "tokenizer_sampler.enable"),
    (("hypernet",), lambda c: c.hypernet.architecture, "hypernet.architecture"),
    (("compile.backend", "compile.dynamic"), lambda c: c.compile.enable, "compile.enable"),
    (("checkpoint.interval", "checkpoint.interval_minutes", "checkpoint.keep_latest_k",
      "checkpoint.async_mode", "checkpoint.load_step", "checkpoint.last_save_model_only"),
     lambda c: c.checkpoint.enable, "checkpoint.enable"),
    (("checkpoint.initial_load_optimizer",), lambda c: c.checkpoint.initial_load,
     "checkpoint.initial_load"),
    (("checkpoint.export_dtype",), lambda c: c.checkpoint.last_save_model_only,
     "checkpoint.last_save_model_only"),
    (("profiling.start_step", "profiling.active_steps"), lambda c: c.profiling.enable,
     "profiling.enable"),
    (("activation_checkpoint.every_n",), lambda c: c.activation_checkpoint.mode == "every_n",
     'activation_checkpoint.mode = "every_n"'),
    (("parallelism.sequence_parallel",), lambda c: c.parallelism.tensor_parallel_degree > 1,
     "parallelism.tensor_parallel_degree > 1"),
    (("data.shuffle_buffer",), lambda c: c.data.streaming and c.data.shuffle, "data.streaming"),
    (("eval.max_documents", "data.validation"), lambda c: c.eval.interval, "eval.interval"),
    (("eval.batch_size", "eval.max_bytes"), lambda c: c.eval.interval or c.eval.tasks,
     "eval.interval or eval.tasks"),
    (("eval.tasks_interval", "eval.include_path", "eval.limit", "eval.num_fewshot",
      "eval.apply_chat_template"), lambda c: c.eval.tasks, "eval.tasks"),
    (("optimizer.fused",), lambda c: c.optimizer.state_dtype == "float32",
     'optimizer.state_dtype = "float32"'),
    (("lr_scheduler.prefix_lr",), lambda c: c.lr_scheduler.prefix_steps,
     "lr_scheduler.prefix_steps"),
    (("loss.gradnorm_lr", "loss.gradnorm_alpha"), lambda c: c.loss.aggregation == "gradnorm",
     'loss.aggregation = "gradnorm"'),
    (("loss.balance_interval",), lambda c: c.loss.aggregation.startswith("approx_gradmag"),
     'loss.aggregation = "approx_gradmag" or "approx_gradmag_preserve_mag"'),
    (("teacher.micro_batch_size",), lambda c: not c.teacher.cache,
     "a teacher that reads (teacher.cache is set)"),
    (("teacher.attn_implementation", "teacher.trust_remote_code"), lambda c: c.teacher.model,
     "teacher.model"),
    (("student.embedding_init",),
     lambda c: c.student.target_tokenizer or c.student.tokens_to_add, "student.target_tokenizer"),
]  # fmt: skip


def without_effect(config: Config, needs_teacher: bool) -> Iterator[str]:
    """Yield a line for each cause why settings that are not their defaults are never read.

    Args:
        needs_teacher: whether any of the losses reads a teacher.
    """
    for names, read, need in _READ:
        if not read(config) and (changed := list(_changed(config, names))):
            have = "has" if len(changed) == 1 else "have"
            yield f"{', '.join(changed)} {have} no effect without {need}"
    if config.teacher.model and not needs_teacher:
        yield "teacher.model has no effect: loss.names has no loss that reads a teacher"
    yield from _beyond_the_end(config)


def _beyond_the_end(config: Config) -> Iterator[str]:
    schedule, steps = config.lr_scheduler, config.training.steps
    prefix = config.hypernet.identity_steps or schedule.prefix_steps
    if not steps:
        return
    if prefix >= steps:
        yield (
            f"lr_scheduler.prefix_steps = {prefix} leaves none of training.steps = {steps}: "
            "optimizer.lr is never reached"
        )
    elif schedule.warmup_steps >= steps - prefix:
        yield (
            f"lr_scheduler.warmup_steps = {schedule.warmup_steps} goes beyond training.steps = "
            f"{steps}: optimizer.lr = {config.optimizer.lr} is never reached"
        )
    end = config.profiling.start_step + config.profiling.active_steps
    if config.profiling.enable and end > steps:
        yield f"the trace of [profiling] ends with training.steps = {steps}, before step {end}"


def _changed(config: Config, names: tuple[str, ...]) -> Iterator[str]:
    """``key = value`` of those keys, and keys of those sections, that are not the default."""
    for info in all_keys().values():
        value = value_of(config, info)
        if (info.section in names or info.full_name in names) and value != info.default:
            yield f"{info.full_name} = {to_toml(value)}"
