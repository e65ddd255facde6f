"""What a run measures of its student: bits per byte, lm-eval tasks, and the gap closed.

Step 0 and the teacher are measured too. *Gap closed* is how far the student has come from where it
began to where its teacher is: (now − step 0) / (teacher − step 0), for each number.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenkit.config import Config
from tokenkit.evaluation.bits_per_byte import evaluate_bits_per_byte
from tokenkit.evaluation.unseen import BITS, Validation
from tokenkit.io import new_file
from tokenkit.log import logger
from tokenkit.models.causal_lm import CausalLM
from tokenkit.models.source import saved_generation
from tokenkit.models.weights import resolve_model_folder
from tokenkit.parallelisms import Parallel
from tokenkit.tokenizers import ByteifiedTokenizer
from tokenkit.training.teacher import Teacher
from tokenkit.training.tokenizers import Tokenizers

FILE = "evaluation.json"  # in the run's folder: what step 0 and the teacher reached


def load_tasks(config: Config) -> dict[str, Any]:
    """The tasks of ``[eval]`` with their data, ready to be run again and again; {} without any.

    Raises:
        ConfigError: if there is no such task.
        DataError: if its data cannot be read.
    """
    settings = config.eval
    if not settings.tasks:
        return {}
    from tokenkit.evaluation.tasks import find_tasks

    names, tasks = find_tasks(settings.tasks, settings.include_path or None, "eval.tasks")
    loaded = tasks.load(names)
    for task in loaded["tasks"].values():
        # As lm-eval: a task that says 0 has no examples, whatever is asked for.
        own = task.get_config("num_fewshot")
        if own != 0:
            wanted = settings.num_fewshot
            task.set_config(key="num_fewshot", value=(own or 0) if wanted < 0 else wanted)
    return loaded


class Evaluation:
    """Validation and tasks of a run.

    Args:
        texts: validation texts; without any, there are no bits per byte.
        tasks: of :func:`load_tasks`; may be empty.
        teacher: measured once, if it can read any text.
    """

    def __init__(
        self,
        config: Config,
        tokenizers: Tokenizers,
        texts: list[str],
        tasks: dict[str, Any],
        student: CausalLM,
        teacher: Teacher | None,
        parallel: Parallel,
    ) -> None:
        self.config, self.tokenizers, self.parallel = config, tokenizers, parallel
        self.student = student
        self.teacher = None if teacher is None or teacher.hf_config is None else teacher
        also = [] if self.teacher is None else [tokenizers.teacher]
        self.validation = Validation(config, tokenizers.student, texts, student, parallel, also)
        self.tasks = tasks
        # Of the student as it is exported; a teacher without a model is the student's start.
        self.generation = generation_of(config.student.model) if tasks else {}
        own = tasks and self.teacher is not None and config.teacher.model
        self.teacher_generation = generation_of(own) if own else self.generation
        self.file = Path(config.job.output_dir) / FILE

    def _parts(self, step: int, last: bool) -> tuple[bool, bool]:
        """Whether bits per byte, and whether tasks are due after ``step`` steps."""
        often = self.config.eval.tasks_interval or self.config.eval.interval
        on_time = step == 0 or last or bool(often and step % often == 0)
        return self.validation.due(step, last), bool(self.tasks) and on_time

    def due(self, step: int, last: bool = False) -> bool:
        """Whether to evaluate after ``step`` steps."""
        return any(self._parts(step, last))

    def __call__(self, step: int, last: bool = False) -> dict[str, float]:
        """Metrics by name; of the teacher too, at step 0."""
        bits, tasks = self._parts(step, last)
        if not step and bits:
            readers = "the student" if self.teacher is None else "the student, then the teacher"
            logger.info(f"before the first step, {readers}: bits per byte of validation texts")
        found = self.validation(self.student) if bits else {}
        if tasks:
            with torch.no_grad(), self.student.opened():
                tok, hf_config = self.tokenizers.student, self.student.backbone.config
                found |= self._run_tasks(self.student, tok, hf_config, self.generation)
        if step:
            return found | self._gaps(found)
        teachers = self._of_teacher(bits, tasks)
        if self.parallel.is_main:
            with new_file(self.file) as file:
                file.write(json.dumps({"start": found, "teacher": teachers}, indent=2) + "\n")
        return found | {f"teacher/{name}": value for name, value in teachers.items()}

    @torch.no_grad()
    def _of_teacher(self, bits: bool, tasks: bool) -> dict[str, float]:
        if self.teacher is None:
            return {}
        found, tok = {}, self.tokenizers.teacher
        if bits:
            found[BITS] = evaluate_bits_per_byte(
                self.teacher.read, tok, self.validation.texts, self.config, self.parallel
            )
        if tasks:
            hf_config, generation = self.teacher.hf_config, self.teacher_generation
            found |= self._run_tasks(self.teacher.read, tok, hf_config, generation)
        return found

    def _run_tasks(
        self, read: Any, tok: ByteifiedTokenizer, hf_config: Any, generation: dict[str, Any]
    ) -> dict[str, float]:
        """Every metric of every task; {} on ranks that need not know."""
        from lm_eval.evaluator import evaluate

        from tokenkit.evaluation.harness import only_errors
        from tokenkit.evaluation.live import LiveLM
        from tokenkit.evaluation.tasks import scores

        settings = self.config.eval
        model = LiveLM(
            read, tok, hf_config, self.parallel, generation=generation,
            batch_size=settings.batch_size, max_bytes=settings.max_bytes,
        )  # fmt: skip
        for task in self.tasks["tasks"].values():
            task.set_fewshot_seed(self.config.job.seed)  # the same examples at each step
        with randomness_kept(), only_errors("lm_eval"):
            results = evaluate(
                model, self.tasks, limit=settings.limit or None, bootstrap_iters=0,
                log_samples=False, apply_chat_template=settings.apply_chat_template,
                fewshot_as_multiturn=settings.apply_chat_template,
            )  # fmt: skip
        return {f"eval/{name}": value for name, (value, _) in scores(results["results"]).items()}

    def _gaps(self, now: dict[str, float]) -> dict[str, float]:
        """Share of the way from step 0 to the teacher, where both are known and differ."""
        if not self.file.is_file():
            return {}
        known = json.loads(self.file.read_text(encoding="utf-8"))
        start, teacher = known["start"], known["teacher"]
        return {
            f"gap_closed/{name}": (value - start[name]) / (teacher[name] - start[name])
            for name, value in now.items()
            if name in start and name in teacher and teacher[name] != start[name]
        }


def generation_of(model: str) -> dict[str, Any]:
    """What the generation config of a model folder or hub id says."""
    return saved_generation(Path(resolve_model_folder(model)))


@contextmanager
def randomness_kept() -> Iterator[None]:
    """Within, what draws from Python's or numpy's random state leaves no trace in the run."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
