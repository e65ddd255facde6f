"""The model card of an exported run: README.md, as the hub reads it.

Its front matter is written by :class:`huggingface_hub.ModelCardData`. Licence and languages are
what the source's own card says. Local folders are named without their paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

import tokenkit
from tokenkit.config import Config
from tokenkit.config.schema import StudentConfig
from tokenkit.config.short import short_toml
from tokenkit.evaluation.results import TASKS, Results, results_of
from tokenkit.log import logger
from tokenkit.losses import need_teacher
from tokenkit.models.source import SourceModel
from tokenkit.tokenizers import ByteifiedTokenizer, parse_spec
from tokenkit.training.checkpoint import whole_checkpoint

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
INHERITED = ("license", "license_name", "license_link", "language")


@dataclass(frozen=True)
class Origin:
    """What a card says of a model that came out of a run.

    Attributes:
        base: hub id of the source; "" if it is not known.
        front: of the source's own card.
        steps: that were trained.
        trusted: the folder has code of its own.
        adapter: it holds an adapter for PEFT instead of a model.
        resized: rows that the base model needs first for it; 0: it has as many.
    """

    config: Config
    base: str
    front: dict[str, Any]
    results: Results
    steps: int
    tokens: int
    trusted: bool = False
    adapter: bool = False
    resized: int = 0


def origin_of(
    run: Path,
    step: int,
    config: Config,
    source: SourceModel,
    tokenizer: ByteifiedTokenizer,
    base_model: str = "",
) -> Origin:
    """Collect what is known.

    Args:
        step: of the run's checkpoint, as it was asked for (-1: the newest).
        base_model: hub id of the source, where it is a local folder.
    """
    at = whole_checkpoint(run / "checkpoints").step if step == -1 else step
    student = config.student
    base = base_model or (student.model if not Path(student.model).expanduser().is_dir() else "")
    return Origin(
        config, base.partition("@")[0], source_front(source.folder), results_of(run, at), at,
        len(tokenizer), student.expand_input_ids,
    )  # fmt: skip


def source_front(folder: Path | None) -> dict[str, Any]:
    """Front matter of a model folder's README.md; {} without one."""
    path = None if folder is None else folder / "README.md"
    if path is None or not path.is_file():
        return {}
    try:
        return ModelCard.load(path, ignore_metadata_errors=True).data.to_dict()
    except Exception as error:  # YAML of anybody
        reason = str(error).splitlines()[0]
        logger.warning(f"'{path}': its front matter cannot be read ({reason}); licence left out")
        return {}


def shown(value: str) -> str:
    """A local path without its folders; anything else as it is."""
    return Path(value).name if value.startswith(("/", "~", ".")) else value


def short(spec: str) -> str:
    """A tokenizer spec as people call it."""
    return shown(parse_spec(spec).path) if ":" in spec else shown(spec)


def front_matter(origin: Origin) -> ModelCardData:
    """What the hub sorts models by."""
    config = origin.config
    values: dict[str, Any] = {k: origin.front[k] for k in INHERITED if origin.front.get(k)}
    if origin.base:
        relation = "adapter" if origin.adapter else "finetune"
        values |= {"base_model": origin.base, "base_model_relation": relation}
    named = [name.split(":")[1] for name in config.data.train if name.startswith("hf:")]
    if named:
        values["datasets"] = named
    tags = ["tokenkit", "tokenizer-transfer" if config.student.target_tokenizer else "distillation"]
    return ModelCardData(
        library_name="peft" if origin.adapter else "transformers",
        pipeline_tag="text-generation", tags=tags, **values,
    )  # fmt: skip


def card(name: str, origin: Origin) -> str:
    """The whole README.md of a model called ``name``.

    Raises:
        ValueError: if the front matter is none that the hub takes.
    """
    text = f"---\n{front_matter(origin).to_yaml()}\n---\n\n" + "\n".join(_body(name, origin))
    ModelCard(text)  # reads it back
    return text


def _body(name: str, origin: Origin) -> Iterator[str]:
    config, student = origin.config, origin.config.student
    source = f"[{origin.base}](https://huggingface.co/{origin.base})" if origin.base else None
    source = source or f"`{shown(student.model)}`"
    yield f"# {name}\n"
    yield f"{_what_it_is(config, source)} Made by tokenkit {tokenkit.__version__}.\n"
    yield from ["```python", *_code(name, origin), "```\n"]
    yield from _table(origin)
    yield "## How it was made\n"
    yield f"- base model: {source}{_licence(origin.front)}"
    yield f"- tokenizer: `{short(student.target_tokenizer or student.tokenizer)}`, " + (
        f"{origin.tokens:,} tokens"
    )
    if need_teacher(config):
        teacher = shown(config.teacher.model)
        yield f"- teacher: {f'`{teacher}`' if teacher else 'the base model itself'}"
    yield f"- losses: {', '.join(f'`{loss}`' for loss in config.loss.names)}"
    yield f"- data: {', '.join(f'`{shown(name)}`' for name in config.data.train)}"
    training = config.training
    yield (
        f"- {origin.steps:,} steps of {training.batch_size} rows of up to "
        f"{training.max_student_length} tokens; trained: {_trained(student)}"
    )
    yield "\n<details><summary>Settings</summary>\n\n```toml"
    yield short_toml(config, shown).rstrip()
    yield "```\n\n</details>\n"


def _code(name: str, origin: Origin) -> Iterator[str]:
    """How it is loaded."""
    trust = ", trust_remote_code=True" if origin.trusted else ""
    if not origin.adapter:
        yield "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        yield f'tokenizer = AutoTokenizer.from_pretrained("{name}"{trust})'
        yield f'model = AutoModelForCausalLM.from_pretrained("{name}"{trust})'
        return
    base = origin.base or shown(origin.config.student.model)
    yield "from peft import PeftModel"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig\n"
    yield f'tokenizer = AutoTokenizer.from_pretrained("{name}")'
    yield f'model = AutoModelForCausalLM.from_pretrained("{base}")'
    if origin.resized:
        yield f"model.resize_token_embeddings({origin.resized}, mean_resizing=False)"
    yield f'model = PeftModel.from_pretrained(model, "{name}")'
    yield f'model.generation_config = GenerationConfig.from_pretrained("{name}")'


def _what_it_is(config: Config, source: str) -> str:
    student, teacher = config.student, shown(config.teacher.model)
    distilled = f" It was distilled from `{teacher}`." if teacher else ""
    if parse_spec(student.target_tokenizer or student.tokenizer).conversion == "byte":
        return f"{source}, which reads and writes bytes.{distilled}"
    if student.target_tokenizer:
        return f"{source} with the tokenizer of `{short(student.target_tokenizer)}`.{distilled}"
    return f"{source}, trained further.{distilled}"


def _trained(student: StudentConfig) -> str:
    layers = {"full": ["all layers"], "lora": ["adapters of the layers (LoRA)"], "none": []}
    parts = layers[student.train] + ["the vocabulary"] * student.train_embeddings
    return " and ".join(parts) or "nothing"


def _licence(front: dict[str, Any]) -> str:
    names = [str(front[key]) for key in ("license", "license_name") if front.get(key)]
    return f" (licence: {', '.join(names)})" if names else ""


def _table(origin: Origin) -> Iterator[str]:
    """Bits per byte and tasks, before and after."""
    results, bits = origin.results, origin.results.bits()
    if not results.end:
        return
    yield "| | teacher | before training | after |"
    yield "|---|---|---|---|"
    if "end" in bits:
        row = (f"{bits[side]:.3f}" if side in bits else "" for side in ("teacher", "start", "end"))
        texts = ", ".join(f"`{shown(name)}`" for name in origin.config.data.validation)
        yield f"| bits per byte on {texts} (lower is better) | {' | '.join(row)} |"
    for name, value in sorted(results.end.items()):
        if not name.startswith(TASKS):
            continue
        sides = (results.teacher.get(name), results.start.get(name), value)
        cells = ("" if number is None else f"{number:.3f}" for number in sides)
        yield f"| {name.removeprefix(TASKS)} | {' | '.join(cells)} |"
    yield ""
