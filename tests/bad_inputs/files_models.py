"""Broken models and tokenizers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.bad_inputs.files import LONG, MAKERS, Files, maker
from tests.launch import TOKENIZERS
from tests.models.tiny import save_tiny

# Models ---------------------------------------------------------------------------------------


def with_config(files: Files, path: Path, **changes) -> None:
    """The good model with other settings; a value of None removes a key."""
    shutil.copytree(files.good_model, path)
    config = json.loads((path / "config.json").read_text())
    config.update(changes)
    config = {key: value for key, value in config.items() if value is not None}
    (path / "config.json").write_text(json.dumps(config))


def with_weights(files: Files, path: Path, change: Callable[[dict], object], **config) -> None:
    """The good model in one file, its weights changed."""
    weights: dict[str, torch.Tensor] = {}
    for shard in sorted(files.good_model.glob("*.safetensors")):
        weights.update(load_file(shard))
    path.mkdir()
    content = json.loads((files.good_model / "config.json").read_text()) | config
    (path / "config.json").write_text(json.dumps(content))
    change(weights)
    save_file({k: v.contiguous() for k, v in weights.items()}, path / "model.safetensors")


EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FIRST = "model.layers.0.self_attn.q_proj.weight"
CONFIGS = {
    "unknown_family": {"model_type": "llamma"},
    "no_family": {"model_type": None},
    "family_not_supported": {"model_type": "bert"},
    "unknown_activation": {"hidden_act": "swooosh"},
    "activation_no_name": {"hidden_act": 3},
    "unknown_rope": {"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}},
    "rope_without_factor": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}},
    "rope_no_table": {"rope_parameters": "linear"},
    "heads_zero": {"num_attention_heads": 0},
    "heads_not_dividing": {"num_key_value_heads": 3},
    "width_negative": {"hidden_size": -4},
    "width_text": {"hidden_size": "wide"},
    "layers_text": {"num_hidden_layers": "three"},
    "layers_more": {"num_hidden_layers": 4},
    "width_other": {"hidden_size": 64},
    "quantised_config": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "vocab_zero": {"vocab_size": 0},
    "dtype_unknown": {"dtype": "float7"},
    "head_dim_zero": {"head_dim": 0},
}
for _name, _changes in CONFIGS.items():
    MAKERS[_name] = lambda files, path, changes=_changes: with_config(files, path, **changes)

WEIGHTS = {
    "embedding_width": lambda w: w.update({EMBED: w[EMBED][:, :16]}),
    "embedding_no_rows": lambda w: w.update({EMBED: w[EMBED][:0]}),
    "embedding_flat": lambda w: w.update({EMBED: w[EMBED].flatten()}),
    "embedding_missing": lambda w: w.pop(EMBED),
    "head_width": lambda w: w.update({HEAD: w[HEAD][:, :16]}),
    "head_no_rows": lambda w: w.update({HEAD: w[HEAD][:0]}),
    "head_fewer_rows": lambda w: w.update({HEAD: w[HEAD][:700]}),
    "head_missing": lambda w: w.pop(HEAD),
    "layer_missing": lambda w: w.pop(FIRST),
    "layer_shape": lambda w: w.update({FIRST: w[FIRST][:, :8]}),
    "integer_layer": lambda w: w.update({FIRST: w[FIRST].to(torch.int8)}),
    "integer_embedding": lambda w: w.update({EMBED: w[EMBED].to(torch.int8)}),
    "integer_head": lambda w: w.update({HEAD: w[HEAD].to(torch.int32)}),
    "complex_layer": lambda w: w.update({FIRST: w[FIRST].to(torch.complex64)}),
    "bool_layer": lambda w: w.update({FIRST: w[FIRST] > 0}),
    "float8_layer": lambda w: w.update({FIRST: w[FIRST].to(torch.float8_e4m3fn)}),
    "few_rows": lambda w: w.update({EMBED: w[EMBED][:100], HEAD: w[HEAD][:100]}),
    "gptq_layer": lambda w: w.update(
        {FIRST.replace("weight", "qweight"): w.pop(FIRST).to(torch.int32)}
    ),
}
for _name, _change in WEIGHTS.items():
    MAKERS[_name] = lambda files, path, change=_change: with_weights(files, path, change)


def with_index(files: Files, path: Path, change: Callable[[str], str]) -> None:
    shutil.copytree(files.good_model, path)
    index = path / "model.safetensors.index.json"
    index.write_text(change(index.read_text()))


def _map_to(name: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        index = json.loads(text)
        index["weight_map"][EMBED] = name
        return json.dumps(index)

    return change


INDICES: dict[str, Callable[[str], str]] = {
    "index_cut": lambda text: text[: len(text) // 2],
    "index_empty": lambda text: "",
    "index_list": lambda text: "[]",
    "index_no_map": lambda text: "{}",
    "index_map_list": lambda text: json.dumps({"weight_map": ["a"]}),
    "index_file_number": _map_to(3),  # type: ignore[arg-type]
    "index_file_missing": _map_to("model-00099-of-00099.safetensors"),
    "index_file_outside": _map_to("../elsewhere.safetensors"),
    "index_incomplete": lambda text: json.dumps(
        {"weight_map": {k: v for k, v in json.loads(text)["weight_map"].items() if k != EMBED}}
    ),
    "index_wrong_file": lambda text: json.dumps(
        {"weight_map": {**json.loads(text)["weight_map"], "model.more.weight":
                        sorted(json.loads(text)["weight_map"].values())[0]}}
    ),
}  # fmt: skip
for _name, _text in INDICES.items():
    MAKERS[_name] = lambda files, path, change=_text: with_index(files, path, change)


def with_file(files: Files, path: Path, name: str, content: bytes | Callable[[bytes], bytes]):
    shutil.copytree(files.good_model, path)
    file = path / name
    if callable(content):
        content = content(file.read_bytes())
    file.write_bytes(content)


def _shard(files: Files) -> str:
    return sorted(p.name for p in files.good_model.glob("*.safetensors"))[0]


@maker
def weights_cut(files, path):
    with_file(files, path, _shard(files), lambda data: data[: len(data) // 2])


@maker
def weights_empty(files, path):
    with_file(files, path, _shard(files), b"")


@maker
def weights_noise(files, path):
    with_file(files, path, _shard(files), b"\xff" * 500)


@maker
def config_cut(files, path):
    with_file(files, path, "config.json", lambda data: data[: len(data) // 2])


@maker
def config_list(files, path):
    with_file(files, path, "config.json", b"[1, 2]")


@maker
def config_noise(files, path):
    with_file(files, path, "config.json", b"\xff\xfe\x00")


@maker
def config_long(files, path):
    with_file(files, path, "config.json", json.dumps({"model_type": LONG}).encode())


@maker
def weights_pickled(files, path):
    path.mkdir()
    shutil.copy(files.good_model / "config.json", path)
    (path / "pytorch_model.bin").write_bytes(b"x")


@maker
def gpt2(files, path):
    save_tiny(path, "gpt2", vocab_size=1505)


# Tokenizers -----------------------------------------------------------------------------------


def tokenizer_with(path: Path, change: Callable[[dict], object], **config) -> None:
    """The tokenizer bpe_a with its tokenizer.json changed."""
    shutil.copytree(TOKENIZERS / "bpe_a", path)
    file = path / "tokenizer.json"
    data = json.loads(file.read_text())
    data = change(data) or data
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    if config:
        known = json.loads((path / "tokenizer_config.json").read_text())
        (path / "tokenizer_config.json").write_text(json.dumps(known | config))


def _add(**token) -> Callable[[dict], object]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    token = {"content": "<far>", "special": True, **flags, **token}
    return lambda data: data["added_tokens"].append(token)


def _vocab(token: str, i: int) -> Callable[[dict], object]:
    return lambda data: data["model"]["vocab"].update({token: i})


TOKENIZER_FILES: dict[str, Callable[[dict], object]] = {
    "tok_cut": lambda data: json.dumps(data)[:9000],
    "tok_empty": lambda data: " ",
    "tok_list": lambda data: "[]",
    "tok_long": lambda data: json.dumps({LONG: 1}),
    "tok_far_id": _vocab("far", 2_000_000_000),
    "tok_far_added": _add(id=2_000_000_000),
    "tok_gap": _vocab("far", 30_000_000),
    "tok_negative": _vocab("far", -1),
    "tok_same_ids": _vocab("far", 17),
    "tok_no_vocab": lambda data: data["model"].update(vocab={}, merges=[]),
    "tok_merge_unknown": lambda data: data["model"]["merges"].append(["qqqq", "zzzz"]),
    "tok_wordpiece": lambda data: data.update(
        model={"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
               "max_input_chars_per_word": 100, "vocab": {"a": 0}}
    ),
    "tok_model_unknown": lambda data: data["model"].update(type="BPF"),
    "tok_lowercase": lambda data: data.update(normalizer={"type": "Lowercase"}),
}  # fmt: skip
for _name, _of in TOKENIZER_FILES.items():
    MAKERS[_name] = lambda files, path, change=_of: tokenizer_with(path, change)

LOOPS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a * b %}"
    "{% endfor %}{% endfor %}"
)
HARMLESS = "{% for m in messages %}{{ m.content }}{% endfor %}"
TEMPLATES: dict[str, object] = {
    "template_loops": LOOPS,
    "template_writes": LOOPS.replace("{% set c = a * b %}", "xxxxxxxxxxxxxxxx"),
    "template_big": "{{ 'x' * 99999999999 }}" + HARMLESS,
    "template_syntax": "{% for m in messages %}{{ m.content }}",
    "template_refuses": "{{ raise_exception('no ' * 9000) }}",
    "template_number": 7,
    "template_loops_on_row": "{% if messages[0].content == 'slow' %}"
    + LOOPS
    + "{% endif %}"
    + HARMLESS,
}
for _name, _template in TEMPLATES.items():
    MAKERS[_name] = lambda files, path, text=_template: tokenizer_with(
        path, lambda data: None, chat_template=text
    )


@maker
def tok_config_cut(files, path):
    tokenizer_with(path, lambda data: None)
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": ')


@maker
def tok_without_json(files, path):
    path.mkdir()
    (path / "notes.txt").write_text("nothing")
