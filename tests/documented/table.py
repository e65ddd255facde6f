"""How each command of the documentation is tried: here, by another test, or not, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Here:
    """Run by ``test_docs_commands.py`` as printed, with tiny stand-ins under the names it gives.

    Attributes:
        more: arguments that make it short.
        swap: words in place of others: what no file can stand in for.
        ranks: processes.
        makes: a file that it makes, beside what ``--output`` names.
    """

    more: str = ""
    swap: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 1
    makes: str = ""


@dataclass(frozen=True)
class Make:
    """Run with programs that only note how they are called.

    Attributes:
        calls: words of the last call.
    """

    calls: str


@dataclass(frozen=True)
class Elsewhere:
    """Done in substance by another test."""

    test: str


@dataclass(frozen=True)
class Needs:
    """Not run: needs a ``hub``, a ``gpu``, ``several nodes``, ``own files`` or the ``network``."""

    what: str


Way = Here | Make | Elsewhere | Needs
NEEDS = {"hub", "gpu", "several nodes", "own files", "network"}

TASKS = {"arc_easy,piqa": "tokenkit_arithmetic", "a,b": "tokenkit_arithmetic,tokenkit_continue",
         "mmlu_*": "tokenkit_*", "gsm8k": "tokenkit_arithmetic",
         "piqa,arc_challenge,boolq,mmlu,agieval_en,agieval_cn,ifeval": "tokenkit_arithmetic",
         "piqa,arc_easy,arc_challenge,boolq,mmlu,agieval_en,agieval_cn,hellaswag": "tokenkit_*",
         "gsm8k_cot_zeroshot,minerva_math": "tokenkit_continue",
         "max_gen_toks=2048": "max_gen_toks=4"}  # fmt: skip
LM_EVAL = "--include-path tests/assets/lm_eval --limit 2"
COMPARED = "--max-documents 6 --own-texts 4 --own-tokens 8 --sample-tokens 4 --samples 2"
SAMPLED = "--max-tokens 4 --count 3"
FEW = "--max-documents 4"
FILE = {"file": "file.jsonl"}  # any name, of a kind that is read
SHORT = "--training.steps 2 --checkpoint.enable false --metrics.tensorboard false"

TRANSFERRED = Elsewhere(
    "tests/cli/test_transfer.py::test_a_model_is_moved_and_the_same_command_goes_on"
)
QUICKSTART = Elsewhere("tests/test_wheel.py::test_quickstart_and_a_transfer_of_its_model")
IN_SMALL = Elsewhere("tests/training/test_recipes.py::test_a_step_in_small")
LAUNCHED = Elsewhere("tests/scripts/test_launcher.py::test_both_ways_train")
TWO_NODES = Elsewhere("tests/scripts/test_two_nodes.py::test_a_rank_of_the_second_node_is_killed")
HYPERNET = Elsewhere(
    "tests/cli/test_zett_hypernet.py::test_a_trained_hypernet_becomes_a_model_folder"
)
DEBUG_HYPERNET = Elsewhere(
    "tests/cli/test_zett_hypernet.py::test_the_debug_recipe_beats_fvt_on_an_unseen_tokenizer"
)
RECIPE = "CONFIG_FILE=train_configs/llama3_to_qwen2.toml"
PLANNED = Here(swap={"NAME": "llama3_to_qwen2"})

MAKE: dict[str, Way] = {
    "make quickstart": Make("python scripts/quickstart.py"),
    "make quickstart ARGS=--bytes": Make("python scripts/quickstart.py --bytes"),
    "make quickstart ARGS=--zett": Make("python scripts/quickstart.py --zett"),
    "make test": Make("python -m pytest -n 3 --dist worksteal -q"),
    "make test ARGS='tests/losses -k alm'": Make("-q tests/losses -k alm"),
    "make test ARGS='-m \"not slow\"'": Make("-q -m not slow"),
    "make lint": Make("mypy"),
    "make TORCH_INDEX=https://download.pytorch.org/whl/cpu lint": Make("mypy"),
    "make docs": Make("mkdocs build --strict"),
    "make test-real": Make("python -m pytest -q -m real or golden"),
    "make test-gpu": Make("python -m pytest -q -m gpu"),
}
INSTALL: dict[str, Way] = {
    "pip install .": Elsewhere("tests/test_wheel.py::test_it_works_alone"),
    "pip install -e .": Needs("network"),
    "pip install '.[[]eval]'": Needs("network"),
    "pip install 'lm-eval<0.5' accelerate": Needs("network"),
    "pip install wandb": Needs("network"),
}
TRANSFER: dict[str, Way] = {
    "tokenkit quickstart": QUICKSTART,
    "tokenkit quickstart --bytes": QUICKSTART,
    "tokenkit transfer HuggingFaceTB/* --to Qwen/* --output moved": TRANSFERRED,
    "tokenkit transfer MODEL --to TOKENIZER --output FOLDER": TRANSFERRED,
    "tokenkit transfer M --to S --output folder": TRANSFERRED,
    "tokenkit zett --model M --tokenizer S --target S2 --output folder": Here(),
    "tokenkit zett --model M --tokenizer S --keep-top 32000 --text file --output folder": Here(
        swap={**FILE, "32000": "600"}
    ),
    "tokenkit zett --model M --tokenizer M:source=Llama3"
    " --target T:source=Qwen2:target=Llama3 --output folder": Here(),
    "tokenkit zett --model M --tokenizer M:source=Llama3 --target T:source=Qwen2:target=Llama3"
    " --output folder --method fvt --text held_out.jsonl": Here(),
    "tokenkit zett --target": Elsewhere(
        "tests/cli/test_commands.py::test_zett_to_another_tokenizer"
    ),
    "tokenkit zett --method hypernet --checkpoint outputs/x --target S2 *": HYPERNET,
    "tokenkit zett --method hypernet --checkpoint outputs/run --target T:source=Qwen2 *": HYPERNET,
    "tokenkit zett --method hypernet --checkpoint outputs/zett_hypernet_* *": HYPERNET,
    "python scripts/zett.py --method hypernet --checkpoint outputs/zett_hypernet_*": HYPERNET,
    "python scripts/zett.py --method hypernet --checkpoint outputs/zett_debug *": DEBUG_HYPERNET,
    "tokenkit export --run outputs/x --output folder": Here(),
    "tokenkit export --run outputs/x --output exported/x": Here(),
    "tokenkit export --run outputs/smollm2_to_qwen2 --output moved": Here(),
    "tokenkit export --run outputs/llama3_to_* --output exported/llama3_to_*": Here(),
    "tokenkit export --run outputs/gemma2_from_openmath2_llama --output exported/*": Here(),
    "tokenkit export --adapter": Elsewhere(
        "tests/export/test_card.py::test_peft_loads_the_adapter"
    ),
    "tokenkit export --run outputs/x --output adapter --adapter": Elsewhere(
        "tests/export/test_card.py::test_peft_loads_the_adapter"
    ),
}
TRAIN: dict[str, Way] = {
    "NGPU=8 CONFIG_FILE=train_configs/*.toml ./run_train.sh": IN_SMALL,
    f"NGPU=8 {RECIPE} ./run_train.sh --training.steps 1000": Here(
        f"{SHORT} --eval.interval 0",
        {
            "NGPU=8": "NGPU=2",
            "1000": "2",
            RECIPE: "CONFIG_FILE=train_configs/debug.toml",
        },
        makes="outputs/debug/metrics.jsonl",
    ),
    f"NGPU=8 {RECIPE} ./run_train.sh --loss.names alm_unconstrained --job.output_dir *": Here(
        f"{SHORT} --eval.interval 0",
        {"NGPU=8": "NGPU=1", RECIPE: "CONFIG_FILE=train_configs/debug.toml"},
        makes="outputs/llama3_to_qwen2_alm/metrics.jsonl",
    ),
    "NGPU=8 CONFIG_FILE=train_configs/gemma2_from_*.toml ./run_train.sh --data.train *": IN_SMALL,
    "./run_train.sh --job.config_file train_configs/debug.toml": LAUNCHED,
    "./run_train.sh --job.config_file train_configs/zett_debug.toml": DEBUG_HYPERNET,
    "torchrun --nnodes=[48] * run_train.sh --job.config_file train_configs/*.toml": TWO_NODES,
    "torchrun … -m tokenkit train": LAUNCHED,
    "torchrun --max-restarts": TWO_NODES,
    "python -m tokenkit.launcher --nnodes=4 … train.py …": TWO_NODES,
    "sbatch --nodes=4 scripts/train.slurm *": Elsewhere(
        "tests/scripts/test_slurm.py::test_ranks_meet_at_the_first_node"
    ),
    "tokenkit train --job.config_file smollm2_to_qwen2": IN_SMALL,
    "python train.py --job.config_file train_configs/smollm2_to_*.toml *": IN_SMALL,
    "python train.py": LAUNCHED,
    "python train.py --help": Elsewhere("tests/cli/test_quick.py::test_train_help"),
    "python train.py --job.config_file x.toml --dry-run": Here(ranks=2),
    "python train.py --job.config_file train_configs/debug.toml"
    " --job.custom_import examples/my_*.py *": Here(SHORT, makes="outputs/debug/metrics.jsonl"),
    "python train.py --job.config_file run.toml --job.custom_import my_parts.py *": Elsewhere(
        "tests/test_examples.py::test_a_loss_from_a_file_of_the_users"
    ),
    "tokenkit train --job.config_file outputs/old/config.toml --job.output_dir outputs/new"
    " --checkpoint.initial_load outputs/old --optimizer.lr 1e-5": Here(
        SHORT, makes="outputs/new/metrics.jsonl"
    ),
    "tokenkit train --job.config_file x.toml --teacher.cache caches/llama70b": Elsewhere(
        "tests/cli/test_commands.py::test_cached_teacher_equals_a_live_one"
    ),
    "tensorboard --logdir outputs": Elsewhere("tests/training/test_charts.py::test_tensorboard"),
}
PREPARE: dict[str, Way] = {
    "tokenkit cache-teacher --output caches/* --job.config_file *x.toml": Here(),
    "tokenkit cache-teacher --output folder --job.config_file x.toml": Here(),
    "torchrun --nproc-per-node=8 -m tokenkit cache-teacher --output caches/* *": Here(ranks=2),
    "torchrun --nproc-per-node=8 -m tokenkit cache-teacher --output ... *": Elsewhere(
        "tests/training/test_cache_writing.py::test_other_layouts_write_the_same"
    ),
    "tokenkit fetch --job.config_file *x.toml": Here(),
    "tokenkit fetch --job.config_file ...": Elsewhere(
        "tests/training/test_fetch.py::test_what_is_there_is_not_fetched_again"
    ),
    "tokenkit plan --job.config_file NAME --world-size 8 --device h100": PLANNED,
    "tokenkit plan --job.config_file llama3_to_qwen2 --world-size 8 --device h100": PLANNED,
    "tokenkit plan --job.config_file x.toml --world-size 8 --device h100": Here(),
    "tokenkit plan --job.config_file x.toml --world-size 64 --device h200 --search": Here(
        "--training.batch_size 64"
    ),
    "tokenkit plan --job.config_file x.toml --probe-steps 3": Elsewhere(
        "tests/planning/test_probe.py::test_probe"
    ),
    "tokenkit plan --search": Elsewhere(
        "tests/planning/test_plan.py::test_search_finds_what_is_there"
    ),
    "tokenkit sample-texts --model * --output own.jsonl": Here(SAMPLED),
    "tokenkit sample-texts --model * --output own.jsonl --*": Here(SAMPLED),
    "tokenkit compute-tokenizer-info --teacher * --student * --data *": Here(swap=FILE),
    "tokenkit compute-mined-mapping --teacher S --student S2 --output map.npz": Here(),
    "tokenkit compute-mined-mapping --teacher T:source=Llama3 --student S:source=Qwen2 *": Here(),
}
LOOK: dict[str, Way] = {
    "tokenkit NAME --help": Elsewhere("tests/cli/test_quick.py::test_help"),
    "python scripts/NAME.py": Elsewhere("tests/cli/test_commands.py::test_help"),
    "python -m tokenkit COMMAND": Elsewhere("tests/cli/test_quick.py::test_help"),
    "tokenkit inspect-tokenizers S S2 --text *": Here(),
    "tokenkit inspect-tokenizers gpt2:source=GPT2 Qwen/* --text *": Here(),
    "tokenkit eval-bpb --model folder --tokenizer S --data file": Here(FEW, FILE),
    "tokenkit eval-bpb --model folder --tokenizer folder:source=Qwen2 --data *": Here(FEW),
    "tokenkit eval-bpb --model moved --tokenizer moved --data held_out.jsonl": Here(FEW),
    'tokenkit generate --model M --prompt "Once upon a time"': Here("--max-new-tokens 4"),
    "tokenkit generate --model exported/x *": Here("--max-new-tokens 4"),
    "tokenkit generate --model outputs/x --chat *": Here("--max-new-tokens 4"),
    "tokenkit generate --model moved --chat *": Here("--max-new-tokens 4"),
    "tokenkit compare A B C --data file --output report": Here(COMPARED, FILE),
    "tokenkit compare teacher/ zero_shot/ outputs/run --data *": Here(COMPARED),
    "tokenkit compare A B --data *": Here(
        f"{COMPARED} --include-path tests/assets/lm_eval --limit 2", TASKS
    ),
    "tokenkit compare A B C --data wiki.jsonl *": Here(
        f"{COMPARED} --include-path tests/assets/lm_eval", {**TASKS, "200": "2"}
    ),
    "tokenkit eval --model folder --tasks a,b": Here(LM_EVAL, TASKS),
    "tokenkit eval --model exported/x --tasks arc_easy,piqa *": Here(LM_EVAL, TASKS),
    "tokenkit eval --model meta-llama/* --output original.json --tasks *": Here(LM_EVAL, TASKS),
    "tokenkit eval --model exported/llama3_to_* --output *.json *": Here(LM_EVAL, TASKS),
    "tokenkit eval --model exported/gemma2_* --output *.json *": Here(LM_EVAL, TASKS),
    "tokenkit eval --model exported/x --tasks toy --include-path tasks": Elsewhere(
        "tests/cli/test_commands.py::test_eval_runs_lm_eval_offline"
    ),
    "tokenkit eval --model outputs/my_run --step 500 *": Here(LM_EVAL, {**TASKS, "500": "2"}),
    "torchrun --nproc-per-node 8 -m tokenkit eval --model *": Here(LM_EVAL, TASKS, ranks=2),
    "torchrun --nproc-per-node 8 -m tokenkit eval …": Elsewhere(
        "tests/evaluation/test_lm_eval_model.py::test_two_processes_answer_as_one"
    ),
    "tokenkit eval --output": Elsewhere(
        "tests/cli/test_commands.py::test_eval_runs_lm_eval_offline"
    ),
    "tokenkit eval-lockstep --config lockstep.toml": Here(),
    "tokenkit eval-lockstep --config lockstep.toml --tasks arc_easy,gsm8k": Elsewhere(
        "tests/cli/test_eval_lockstep.py::test_two_models_run_tasks"
    ),
}
# A key may have wildcards, as names of files have.
TABLE = {**MAKE, **INSTALL, **TRANSFER, **TRAIN, **PREPARE, **LOOK}
