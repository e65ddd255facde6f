from __future__ import annotations

import pytest

from tokenkit.config import Config, components, load_config, validate
from tokenkit.config.keys import all_keys
from tokenkit.config.local_paths import tokenizer_path
from tokenkit.config.validate_paths import looks_local
from tokenkit.errors import ConfigError


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with what a run may name: a model, a config without weights, data, a plain file."""
    monkeypatch.chdir(tmp_path)
    for folder in ("model", "weightless", "empty", "cache"):
        (tmp_path / folder).mkdir()
    for folder in ("model", "weightless"):
        (tmp_path / folder / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").touch()
    for file in ("a.jsonl", "b.jsonl", "file"):
        (tmp_path / file).touch()
    return tmp_path


MICRO_8 = "--training.micro_batch_size=8"


def settings(*overrides: str) -> Config:
    base = ["--student.model=./model", "--student.tokenizer=./model:source=Llama3"]
    return load_config([*base, "--data.train=a.jsonl", *overrides])


def problem(*overrides: str, world_size: int = 1) -> str:
    with pytest.raises(ConfigError) as error:
        validate(settings(*overrides), world_size)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "world_size"),
    [
        ([], 1),
        (["--training.batch_size=32"], 4),
        (["--training.batch_size=16", "--parallelism.tensor_parallel_degree=2"], 4),
        (["--parallelism.tensor_parallel_degree=4"], 4),
        (
            [
                "--parallelism.data_parallel_replicate_degree=2",
                "--parallelism.data_parallel_shard_degree=2",
                "--parallelism.tensor_parallel_degree=2",
                "--training.micro_batch_size=1",
            ],
            8,
        ),
        (["--student.model=org/name", "--student.tokenizer=org/name"], 1),
        (["--student.model=gpt2", "--student.tokenizer=gpt2:source=GPT2"], 1),
        (["--student.model=org/name@refs/pr/1"], 1),
        (["--student.model=weightless", "--student.init=random"], 1),
        (["--student.target_tokenizer=Qwen/Qwen2.5-1.5B:source=Qwen2:target=Llama3"], 1),
        (["--teacher.model=org/large", "--teacher.tokenizer=org/large"], 1),
        (["--teacher.cache=cache"], 1),
        (["--teacher.tokenizer=./model:source=Llama3:target=Qwen2"], 1),
        (["--loss.names=sft,alm_space", "--loss.weights=1,0", "--loss.schedules=linear,cosine"], 1),
        (["--loss.aggregation=approx_gradmag_preserve_mag"], 1),
        (["--loss.names=alm_unbiased", "--alm.pair_bias=file"], 1),
        (["--alm.mode="], 1),
        (["--alm.mode=eos_as_space+append_space"], 1),
        (["--alm.diff_fn=renyi", "--alm.renyi_alpha=0.5"], 1),
        (["--student.train=none"], 1),
        (["--student.train=lora", "--student.train_embeddings=false"], 1),
        (["--data.train=a.jsonl,b.jsonl,hf:org/set", "--data.weights=1,2,0"], 1),
        (["--data.train=*.jsonl"], 1),
        (["--data.train=model"], 1),
        (["--data.train=", "--training.steps=0", "--lr_scheduler.warmup_steps=5"], 1),
        (["--eval.interval=5", "--data.validation=b.jsonl"], 1),
        (["--lr_scheduler.prefix_steps=50", "--lr_scheduler.warmup_steps=500"], 1),
        (["--optimizer.lr_scale_patterns=embed", "--optimizer.lr_scales=2"], 1),
        (["--job.output_dir=new/folder"], 1),
        (["--job.output_dir=model"], 1),
    ],
)
def test_good(workplace, overrides, world_size):
    validate(settings(*overrides), world_size)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        # student
        (["--student.model="], ["student.model is empty"]),
        (["--student.tokenizer="], ["student.tokenizer is empty", "./model:source="]),
        (["--student.train=loar"], ['student.train = "loar"', "full, lora, none", "'lora'"]),
        (["--student.init=fresh"], ["student.init", '"fresh"', "pretrained, random"]),
        (["--student.output_embeddings=tie"], ["student.output_embeddings", "untie"]),
        (
            ["--student.expand_input_ids"],
            ["student.expand_input_ids = true", "student.target_tokenizer", ":conversion=byte"],
        ),
        (
            [
                "--student.expand_input_ids",
                "--student.tokenizer",
                "x:conversion=byte",
                "--student.target_tokenizer",
                "x:conversion=byte",
            ],
            ["student.expand_input_ids = true", 'student.tokenizer = "x:conversion=byte"'],
        ),
        (
            [
                "--student.expand_input_ids",
                "--student.target_tokenizer",
                "x:conversion=byte",
                "--hypernet.architecture",
                "transformer",
            ],
            ["student.expand_input_ids = true", "hypernet.architecture"],
        ),
        (["--student.pad_vocab_multiple=0"], ["student.pad_vocab_multiple = 0", "at least 1"]),
        (["--student.tokens_to_add=<a>,<a>"], ["student.tokens_to_add", "distinct"]),
        (["--student.tokens_to_add=<a>,"], ["student.tokens_to_add", "non-empty"]),
        (
            ["--student.train=none", "--student.train_embeddings=false"],
            ["student.train", "student.train_embeddings", "nothing to train"],
        ),
        (["--student.train=lora", "--lora.targets="], ["lora.targets is empty"]),
        (["--lora.rank=0"], ["lora.rank = 0", "at least 1"]),
        # models, tokenizers and teachers on disk
        (["--student.model=./missing"], ['student.model = "./missing"', "does not exist"]),
        (["--student.model=empty/missing"], ["student.model", "does not exist"]),
        (["--student.model=one/two/three"], ["student.model", "does not exist"]),
        (["--student.model=missing/"], ["student.model", "does not exist"]),
        (["--student.model=~/no such folder"], ["student.model", "does not exist"]),
        (["--student.model=C:\\models\\x"], ["student.model", "does not exist"]),
        (["--student.model=my model"], ["student.model", '"my model"', "org/name"]),
        (["--student.model=./file"], ["student.model", "this is a file"]),
        (["--student.model=./empty"], ["student.model", "no config.json"]),
        (["--student.model=./weightless"], ["student.model", "safetensors", '"random"']),
        (["--student.tokenizer=./no:source=Llama3"], ["student.tokenizer", '"./no"', "not exist"]),
        (["--student.target_tokenizer=/no/such"], ["student.target_tokenizer", "does not exist"]),
        (
            ["--teacher.model=./missing", "--teacher.tokenizer=org/x"],
            ['teacher.model = "./missing"', "does not exist"],
        ),
        (
            ["--teacher.model=./weightless", "--teacher.tokenizer=org/x", "--student.init=random"],
            ["teacher.model", "safetensors"],
        ),
        (["--teacher.model=org/large"], ["teacher.tokenizer is empty", '"org/large"']),
        (
            ["--teacher.model=org/large", "--teacher.tokenizer=./no"],
            ["teacher.tokenizer", '"./no"', "does not exist"],
        ),
        (["--teacher.tokenizer=org/large"], ["teacher.tokenizer", "without teacher.model"]),
        (["--teacher.cache=./missing"], ['teacher.cache = "./missing"', "does not exist"]),
        (["--teacher.cache=file"], ['teacher.cache = "file"', "does not exist"]),
        (
            ["--teacher.cache=cache", "--loss.names=sft,uld"],
            ["teacher.cache holds log-probs only", '"uld"'],
        ),
        (
            ["--student.embedding_init=fwt"],
            ['student.embedding_init = "fwt"', "did you mean 'fvt'", "focus, fvt, mean, omp"],
        ),
        (["--loss.names=mined"], ["mined.mapping is empty", "compute-mined-mapping"]),
        (["--loss.names=mined", "--mined.mapping=no.npz"], ['"no.npz" does not exist']),
        (
            ["--loss.names=lexical", "--student.train_embeddings=false"],
            ["student.train_embeddings", '"lexical"'],
        ),
        (
            ["--loss.names=lexical", "--loss.aggregation=approx_gradmag"],
            ["loss.aggregation", '"lexical"'],
        ),
        (
            ["--loss.names=alm_latents", "--latents.states=qkv", "--latents.project=true"],
            ["latents.project", "qkv"],
        ),
        (
            ["--loss.names=alm_latents", "--latents.states=qkv", "--compile.enable=true"],
            ["compile.enable", "qkv"],
        ),
        (["--latents.states=qvk"], ["latents.states", "did you mean 'qkv'"]),
        # losses
        (["--loss.names="], ["loss.names is empty"]),
        (["--loss.names=sft,alm_spaec"], ['"alm_spaec"', "did you mean 'alm_space'", "sft"]),
        (["--loss.names=sft,sft"], ["loss.names", "appears twice"]),
        (["--loss.weights=1,2"], ["loss.weights = [1.0, 2.0]", "2 entries", "loss.names has 1"]),
        (["--loss.weights=-1"], ["loss.weights = [-1.0]", "at least 0"]),
        (["--loss.weights=0"], ["loss.weights = [0.0]", "more than 0"]),
        (["--loss.schedules=linear,linear"], ["loss.schedules", "2 entries"]),
        (["--loss.schedules=cosin"], ["loss.schedules", '"cosin"', "did you mean 'cosine'"]),
        (["--loss.aggregation=gradmagg"], ["loss.aggregation", "did you mean 'gradmag'"]),
        (["--loss.aggregation=gradclip"], ["'gradclip' needs a largest norm", "gradclip:1.0"]),
        (["--loss.aggregation=gradclip:-1"], ["'gradclip:-1' needs a largest norm"]),
        (["--loss.aggregation=pcgrad:2"], ["pcgrad takes no number"]),
        (["--loss.aggregation=pcgrad+gradnorm"], ["'gradnorm' gives weights", "joined"]),
        (["--loss.aggregation=approx_gradmag+gradclip:1"], ["cannot be joined with others"]),
        (["--loss.aggregation=aprox_gradmag"], ["did you mean 'approx_gradmag'"]),
        (
            ["--loss.aggregation=approx_gradmag+approx_gradmag_preserve_mag"],
            ["cannot be joined with others by '+'"],
        ),
        (
            ["--loss.aggregation=approx_gradmag", "--student.train=none"],
            ["loss.aggregation", "student.train"],
        ),
        (["--alm.diff_fn=binary_kl"], ['alm.diff_fn = "binary_kl"', "did you mean", "joschu_k3"]),
        (["--alm.mode=append_spaces"], ['"append_spaces"', "did you mean 'append_space'"]),
        (["--alm.mode=append_space+append_space"], ["alm.mode", "twice"]),
        (["--alm.space_mask_mode=space+tabs"], ["alm.space_mask_mode", "did you mean 'tab'"]),
        (["--alm.temperature=0"], ["alm.temperature = 0.0", "more than 0"]),
        (["--alm.temperature=nan"], ["alm.temperature = nan", "finite"]),
        (["--alm.merge_threshold=1.5"], ["alm.merge_threshold = 1.5", "at most 1"]),
        (["--alm.merge_threshold=-0.5"], ["alm.merge_threshold = -0.5", "at least 0"]),
        (["--alm.numerator=chunks"], ["alm.numerator", "chunk_count, token_count"]),
        (["--alm.denominator=log1p_token_count"], ["alm.denominator", "chunk_count, token_count"]),
        (["--alm.diff_fn=renyi", "--alm.renyi_alpha=1"], ["alm.renyi_alpha", "other than 1"]),
        (["--loss.names=alm_unbiased"], ["alm.pair_bias is empty", "alm_unbiased"]),
        (["--alm.pair_bias=missing"], ['alm.pair_bias = "missing"', "no such file"]),
        # data
        (["--data.train="], ["data.train is empty"]),
        (["--data.train=a.jsonl,"], ["data.train", "an entry is empty"]),
        (["--data.train=missing.jsonl"], ["data.train", '"missing.jsonl"', "does not exist"]),
        (["--data.train=org/set"], ["data.train", "does not exist", "hf:org/set"]),
        (["--data.train=hf:"], ["data.train", "hf:org/name"]),
        (["--data.train=*.parquet"], ["data.train", '"*.parquet"', "does not exist"]),
        (["--data.validation=missing.jsonl"], ["data.validation", '"missing.jsonl"']),
        (["--data.weights=1,2"], ["data.weights", "2 entries", "data.train has 1"]),
        (["--data.weights=-1"], ["data.weights = [-1.0]", "at least 0"]),
        (["--data.weights=inf"], ["data.weights = [inf]", "finite"]),
        (["--data.weights=0"], ["data.weights = [0.0]", "more than 0"]),
        (["--data.num_workers=-1"], ["data.num_workers = -1", "at least 0"]),
        (["--eval.interval=5"], ["data.validation is empty", "eval.interval = 5"]),
        (["--chat.text_mode=direct"], ["chat.text_mode", "direct_encode"]),
        (["--chat.loss_on=user"], ["chat.loss_on", "all, assistant, completion"]),
        # training
        (["--training.steps=-1"], ["training.steps = -1", "at least 0"]),
        (["--training.batch_size=0"], ["training.batch_size = 0", "at least 1"]),
        (["--training.max_student_length=1"], ["training.max_student_length = 1", "at least 2"]),
        (["--training.dtype=float16"], ["training.dtype", '"float16"', "float32, bfloat16"]),
        (
            ["--training.batch_size=12", MICRO_8],
            ["batch_size = 12", "8 or 16", "micro_batch_size = 6"],
        ),
        (
            ["--training.batch_size=4", MICRO_8],
            ["batch_size = 4", "such as 8,"],
        ),
        (["--lr_scheduler.decay=exp"], ["lr_scheduler.decay", "linear, cosine, constant"]),
        (["--optimizer.lr=-1"], ["optimizer.lr = -1.0", "at least 0"]),
        (["--optimizer.beta2=1"], ["optimizer.beta2 = 1.0", "less than 1"]),
        (["--optimizer.lr_scales=1"], ["optimizer.lr_scales", "1 entries", "0"]),
        (["--optimizer.lr_scale_patterns=embed"], ["optimizer.lr_scale_patterns 1"]),
        (
            ["--optimizer.lr_scale_patterns=(", "--optimizer.lr_scales=1"],
            ["optimizer.lr_scale_patterns", '"("', "regular expression"],
        ),
        (["--activation_checkpoint.mode=some"], ["activation_checkpoint.mode", "selective_ops"]),
        (["--activation_checkpoint.every_n=0"], ["activation_checkpoint.every_n = 0"]),
        (["--checkpoint.keep_latest_k=-1"], ["checkpoint.keep_latest_k = -1", "at least 0"]),
        (["--checkpoint.async_mode=asynk"], ["checkpoint.async_mode", "did you mean 'async'"]),
        (["--job.output_dir="], ["job.output_dir is empty"]),
        (["--job.output_dir=file"], ['job.output_dir = "file"', "is a file"]),
        (["--job.output_dir=file/run"], ["job.output_dir", "'file' is a file"]),
    ],
)
def test_bad(workplace, overrides, parts):
    message = problem(*overrides)
    for part in parts:
        assert part in message


TEACHER = ["--teacher.model=org/teacher", "--teacher.tokenizer=org/teacher:source=Qwen2"]


@pytest.mark.parametrize(
    ("overrides", "world_size", "parts"),
    [
        (["--parallelism.tensor_parallel_degree=3"], 4, ["degree = 3", "processes, 4", "1, 2, 4"]),
        (["--parallelism.tensor_parallel_degree=2"], 1, ["degree = 2", "use 1,"]),
        (["--parallelism.tensor_parallel_degree=0"], 1, ["degree = 0", "at least 1"]),
        (["--parallelism.data_parallel_replicate_degree=3"], 2, ["replicate_degree = 3", "1, 2"]),
        (["--parallelism.data_parallel_shard_degree=0"], 2, ["shard_degree = 0", "1, 2 or -1"]),
        (["--parallelism.data_parallel_shard_degree=1"], 2, ["shard_degree = 1", "use 2 or -1"]),
        (
            [
                "--parallelism.data_parallel_replicate_degree=2",
                "--parallelism.tensor_parallel_degree=2",
            ],
            2,
            ["replicate_degree = 2 x tensor_parallel_degree = 2", "processes, 2"],
        ),
        (
            ["--parallelism.context_parallel_degree=3"],
            4,
            ["context_parallel_degree = 3", "1, 2, 4"],
        ),
        (
            ["--parallelism.context_parallel_degree=2", "--parallelism.tensor_parallel_degree=2"],
            2,
            ["tensor_parallel_degree = 2 x context_parallel_degree = 2", "processes, 2"],
        ),
        (["--teacher.micro_batch_size=12"], 1, ["micro_batch_size = 12", "multiple of", "= 8"]),
        (
            ["--teacher.parallelism.tensor_parallel_degree=2", "--training.batch_size=32"],
            2,
            ["teacher.parallelism.tensor_parallel_degree = 2", "as it was"],
        ),
        (
            [
                *TEACHER,
                "--training.batch_size=32",
                "--teacher.parallelism.tensor_parallel_degree=3",
            ],
            4,
            ["teacher.parallelism.tensor_parallel_degree = 3", "processes, 4"],
        ),
        (
            [
                *TEACHER,
                "--teacher.parallelism.tensor_parallel_degree=2",
                "--parallelism.tensor_parallel_degree=4",
            ],
            4,
            ["teacher.parallelism.tensor_parallel_degree = 2", "multiple of it"],
        ),
        (
            [
                *TEACHER,
                "--training.batch_size=32",
                "--teacher.parallelism.data_parallel_shard_degree=1",
            ],
            4,
            ["[teacher.parallelism]: replicate 1 x shard 1 x tensor parallel 1", "processes, 4"],
        ),
        (["--training.batch_size=24", MICRO_8], 2, ["batch_size = 24", "16 or 32", "= 6"]),
        (["--training.batch_size=1", MICRO_8], 2, ["ranks (2) = 16", "such as 16"]),
        (["--training.batch_size=1"], 2, ["ranks (2) = 2", "such as 2"]),
    ],
)
def test_bad_layout(workplace, overrides, world_size, parts):
    message = problem(*overrides, world_size=world_size)
    for part in parts:
        assert part in message


def test_choices_and_ranges_hold_for_the_defaults(workplace):
    """Every key with choices refuses another word, every bounded key a value out of bounds."""
    for info in all_keys().values():
        limits = info.metadata
        if limits["choices"]:
            assert info.full_name in problem(f"--{info.full_name}=nonsense")
        if limits["minimum"] is not None:
            assert info.full_name in problem(f"--{info.full_name}={limits['minimum'] - 1}")
        if limits["above"] is not None:
            assert info.full_name in problem(f"--{info.full_name}={limits['above']}")
        if limits["maximum"] is not None:
            assert info.full_name in problem(f"--{info.full_name}={limits['maximum'] + 1}")


@pytest.mark.parametrize(
    ("value", "local"),
    [
        ("org/name", False),
        ("gpt2", False),
        ("org/name@main", False),
        ("org/name@refs/pr/1", False),
        ("model", True),
        ("model/new", True),
        ("./x", True),
        ("../x/y", True),
        ("/x", True),
        ("~/x", True),
        ("a/b/c", True),
        ("new/", True),
        ("C:\\x", True),
        ("D:/x", True),
    ],
)
def test_looks_local(workplace, value, local):
    assert looks_local(value) is local


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("", ""),
        ("org/name", "org/name"),
        ("org/name:source=Llama3:target=Qwen2", "org/name"),
        ("C:\\toks\\a:source=Llama3", "C:\\toks\\a"),
        ("org/name@main:conversion=byte", "org/name@main"),
    ],
)
def test_tokenizer_path(spec, path):
    assert tokenizer_path(spec) == path


def test_a_component_cannot_take_a_section_of_the_core(monkeypatch):
    monkeypatch.setitem(components._sections, "training", type("Settings", (), {}))
    with pytest.raises(ValueError, match=r"\[training\] is one of the core's"):
        Config()
