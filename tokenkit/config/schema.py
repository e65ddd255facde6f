"""All settings of a run: one dataclass per TOML section, one documented field per key.

``key`` attaches to each field its documentation and the values it may take; ``--help`` prints the
first, :func:`tokenkit.config.validate` checks the second. Loading is in ``load.py``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenkit.config.components import registered_sections
from tokenkit.config.key import key
from tokenkit.config.schema_compute import (
    ActivationCheckpointConfig,
    CompileConfig,
    ParallelismConfig,
)
from tokenkit.config.schema_data import ChatConfig, DataConfig
from tokenkit.config.schema_hypernet import HypernetConfig, TokenizerSamplerConfig
from tokenkit.config.schema_teacher import TeacherConfig


@dataclass
class JobConfig:
    """The run as a whole."""

    name: str = key("run", "name of the run, for logs")
    # Where the settings were read from does not change what they are: not part of equality.
    config_file: str = key("", "TOML file with settings (command line only)", compare=False)
    output_dir: str = key(
        "outputs/run", "folder for checkpoints, logs and the resolved settings", path=True
    )
    seed: int = key(1234, "seed of every random choice", minimum=0, maximum=2**32 - 1)
    custom_import: list[str] = key(
        [], "Python modules, or paths of .py files, to import first; they register components"
    )
    startup_timeout_minutes: float = key(
        30.0, "longest wait of one rank for another up to the end of the first step", minimum=0.1
    )
    step_timeout_minutes: float = key(
        15.0, "the same from then on; shortly before, a waiting rank shows where it is", minimum=0.1
    )


@dataclass
class StudentConfig:
    """The model that moves to another tokenizer."""

    model: str = key("", "hub id or local folder", path=True)
    tokenizer: str = key(
        "", "tokenizer spec of the model as it is, path_or_id[:source=Family]...", path=True
    )
    target_tokenizer: str = key(
        "", "tokenizer spec to move to (empty: keep the tokenizer)", path=True
    )
    init: str = key("pretrained", "starting weights", choices=("pretrained", "random"))
    train: str = key("full", "what to train in the decoder", choices=("full", "lora", "none"))
    train_embeddings: bool = key(True, "train the input and output matrices too")
    embedding_init: str = key(
        "fvt", "initialiser of the new vocabulary: focus | fvt | mean | omp | random, or your own"
    )
    output_embeddings: str = key(
        "preserve", "keep tied matrices tied or untie them", choices=("preserve", "untie")
    )
    expand_input_ids: bool = key(
        False, "let each byte read the longest source token that ends with it, too"
    )
    tokens_to_add: list[str] = key([], "special tokens to add to the target tokenizer")
    pad_vocab_multiple: int = key(
        1, "pad the vocabulary's rows to a multiple of this", minimum=1, maximum=2**16
    )
    attn_implementation: str = key("", "attention of transformers (empty: the model's default)")
    trust_remote_code: bool = key(False, "run Python code that comes with the model")


@dataclass
class TrainingConfig:
    """Length of training and shape of a step."""

    steps: int = key(100, "optimizer steps", minimum=0)
    batch_size: int = key(
        8, "sequences per optimizer step, over all ranks", minimum=1, maximum=2**24
    )
    micro_batch_size: int = key(
        0,
        "sequences per forward pass and data-parallel rank; accumulation follows (0: all of a "
        "rank's share)",
        minimum=0,
        maximum=2**16,
    )
    accumulate: str = key(
        "auto",
        "over micro-batches, FSDP gathers weights and reduces gradients in each one (sharded), or "
        "once a step, which takes the memory of both (unsharded; auto: if that fits well)",
        choices=("auto", "sharded", "unsharded"),
    )
    max_teacher_length: int = key(512, "longest sequence in teacher tokens", minimum=2)
    max_student_length: int = key(512, "longest sequence in student tokens", minimum=2)
    max_grad_norm: float = key(1.0, "clip the gradient to this norm (0: off)", minimum=0)
    dtype: str = key(
        "float32",
        "compute in (trained weights are kept in float32)",
        choices=("float32", "bfloat16"),
    )
    max_skipped: int = key(
        10,
        "end after so many steps in a row without an update, each because a loss or gradient was "
        "not finite (0: never)",
        minimum=0,
    )
    deterministic: bool = key(False, "refuse operations that are not reproducible")
    gc_interval: int = key(
        50, "steps between collections of Python's garbage (0: whenever Python likes)", minimum=0
    )
    threads: int = key(0, "CPU threads per rank (0: torch's default)", minimum=0, maximum=1024)


@dataclass
class OptimizerConfig:
    """AdamW."""

    lr: float = key(1e-5, "peak learning rate", minimum=0)
    weight_decay: float = key(0.0, "decoupled weight decay, not on norms and biases", minimum=0)
    beta1: float = key(0.9, "decay of the gradient average", minimum=0, below=1)
    beta2: float = key(0.95, "decay of the squared-gradient average", minimum=0, below=1)
    eps: float = key(1e-8, "added to the denominator", above=0)
    fused: bool = key(True, "one fused kernel for all parameters (on a GPU always)")
    state_dtype: str = key(
        "float32",
        "of the two averages; bfloat16: rounded stochastically, half the memory, no fused kernel",
        choices=("float32", "bfloat16"),
    )
    lr_scale_patterns: list[str] = key([], "regular expressions on parameter names")
    lr_scales: list[float] = key([], "learning-rate factor for each pattern", minimum=0)


@dataclass
class LrSchedulerConfig:
    """Learning rate over the steps: prefix, warm-up, decay."""

    warmup_steps: int = key(0, "steps of linear warm-up", minimum=0)
    decay: str = key("linear", "after the warm-up", choices=("linear", "cosine", "constant"))
    prefix_steps: int = key(0, "steps at prefix_lr before the warm-up", minimum=0)
    prefix_lr: float = key(0.0, "learning rate during the prefix", minimum=0)


@dataclass
class LoraConfig:
    """Low-rank adapters, with student.train = "lora"."""

    rank: int = key(64, "rank of the adapters", minimum=1, maximum=2**14)
    alpha: float = key(64.0, "adapters are scaled by alpha / rank", above=0)
    targets: list[str] = key(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        'projections that get an adapter, by name; "all-linear" takes all',
    )


@dataclass
class CheckpointConfig:
    """Saving and resuming."""

    enable: bool = key(True, "save checkpoints, and resume from the newest")
    interval: int = key(500, "steps between checkpoints", minimum=1)
    interval_minutes: float = key(0.0, "save after so many minutes, too (0: off)", minimum=0)
    keep_latest_k: int = key(2, "checkpoints to keep (0: all)", minimum=0)
    async_mode: str = key(
        "disabled", "write in the background while training", choices=("disabled", "async")
    )
    load_step: int = key(-1, "step to resume from (-1: the newest whole one)", minimum=-1)
    verify: bool = key(True, "read a checkpoint's files whole and compare hashes before it is used")
    initial_load: str = key("", "run or checkpoint whose weights a new run begins with", path=True)
    initial_load_optimizer: bool = key(False, "take its optimizer's state, too")
    last_save_model_only: bool = key(False, "the last checkpoint holds the model alone")
    export_dtype: str = key("float32", "of a model saved alone", choices=("float32", "bfloat16"))
    overwrite: bool = key(False, "start afresh and replace what is in output_dir")


@dataclass
class MetricsConfig:
    """What is logged, and where."""

    log_interval: int = key(10, "steps between log lines", minimum=1)
    tensorboard: bool = key(True, "write TensorBoard logs into output_dir")
    wandb: str = key("", "project of Weights & Biases to log to, too (needs the package wandb)")
    color: bool = key(True, "coloured log lines, in a terminal")
    progress: bool = key(True, "progress bar on rank 0, in a terminal")


@dataclass
class EvalConfig:
    """Validation in bits per byte, and tasks of lm-eval."""

    interval: int = key(0, "steps between validations in bits per byte (0: off)", minimum=0)
    tokenizers: list[str] = key(
        [], "specs of unseen tokenizers to validate on (with tokenizer_sampler)", path=True
    )
    max_documents: int = key(64, "validation texts", minimum=1)
    batch_size: int = key(8, "windows per forward pass", minimum=1)
    max_bytes: int = key(2048, "bytes of text per window", minimum=16)
    tasks: list[str] = key([], "tasks of lm-eval, run at step 0, at the end and in between")
    tasks_interval: int = key(0, "steps between runs of the tasks (0: eval.interval)", minimum=0)
    include_path: str = key("", "folder with further task files", path=True)
    limit: int = key(0, "documents a task (0: all)", minimum=0)
    num_fewshot: int = key(-1, "examples in a task's prompt (-1: the task's own)", minimum=-1)
    apply_chat_template: bool = key(False, "prompts of tasks are chats")


@dataclass
class ProfilingConfig:
    """A trace of a few steps."""

    enable: bool = key(False, "write a torch.profiler trace into output_dir")
    start_step: int = key(5, "first step of the trace", minimum=0)
    active_steps: int = key(3, "steps in the trace", minimum=1)


@dataclass
class LossConfig:
    """What is minimised."""

    names: list[str] = key(["sft"], "losses, by registered name")
    weights: list[float] = key([], "weight of each loss (empty: all 1)", minimum=0)
    schedules: list[str] = key(
        [],
        "course of each weight over training (empty: all constant); linear and reverse_cosine rise "
        "from 0 to 1, reverse_linear and cosine fall",
        choices=("constant", "linear", "reverse_linear", "cosine", "reverse_cosine"),
    )
    aggregation: str = key(
        "",
        "how losses are balanced: (empty: mean of weighted losses) | approx_gradmag | "
        "approx_gradmag_preserve_mag | gradnorm, or a sum of their weighted gradients after "
        "gradmag, gradclip:LIMIT, pcgrad, joined by +",
    )
    balance_interval: int = key(
        10,
        "steps between measurements of the norms that approx_gradmag balances (and at steps 1, 2, "
        "4, 8, …), which serve in between; 1: exact, but with accumulation it costs one more "
        "forward pass",
        minimum=1,
    )
    gradnorm_lr: float = key(0.025, "learning rate of gradnorm's weights", above=0)
    gradnorm_alpha: float = key(0.12, "how strongly gradnorm evens out learning rates", minimum=0)


@dataclass
class Config:
    """A run's settings; ``config.section.key`` is ``--section.key`` on the command line."""

    job: JobConfig = field(default_factory=JobConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    hypernet: HypernetConfig = field(default_factory=HypernetConfig)
    tokenizer_sampler: TokenizerSamplerConfig = field(default_factory=TokenizerSamplerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    chat: ChatConfig = field(default_factory=ChatConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lr_scheduler: LrSchedulerConfig = field(default_factory=LrSchedulerConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    parallelism: ParallelismConfig = field(default_factory=ParallelismConfig)
    activation_checkpoint: ActivationCheckpointConfig = field(
        default_factory=ActivationCheckpointConfig
    )
    compile: CompileConfig = field(default_factory=CompileConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    profiling: ProfilingConfig = field(default_factory=ProfilingConfig)

    def __post_init__(self) -> None:
        for section, settings in registered_sections().items():
            if hasattr(self, section):
                raise ValueError(f"section [{section}] is one of the core's; register another name")
            setattr(self, section, settings())

    def copy(self) -> Config:
        """A copy; ``dataclasses.replace`` would give registered sections their defaults."""
        return copy.deepcopy(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and vars(self) == vars(other)

    if TYPE_CHECKING:  # sections that registered components own

        def __getattr__(self, name: str) -> Any: ...
