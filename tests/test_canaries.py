"""Folders from strangers: no code in any of their files is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.launch import SPEC_A, SPEC_B, TOKENIZERS
from tests.models.tiny import save_tiny
from tokenkit.errors import ModelError, TokenkitError
from tokenkit.inference.model import load_hf
from tokenkit.models.source import open_source_model
from tokenkit.tokenizers import load_pair_bias, load_tokenizer
from tokenkit.tokenizers.pairs.bias import FILES
from tokenkit.tokenizers.pairs.mined import load_mined_mapping
from tokenkit.training.checkpoint.files import hash_of
from tokenkit.training.teacher_cache import TeacherScores


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture
def bomb(canary) -> bytes:
    data = pickle.dumps(Bomb(canary))
    pickle.loads(pickle.dumps(Bomb(canary)))  # it works
    canary.rmdir()
    return data


@pytest.fixture
def model(tmp_path, canary) -> Path:
    """A model folder with Python code that its files ask for."""
    folder = save_tiny(tmp_path / "model", "llama", vocab_size=1505)
    for file in ("bpe_a/tokenizer.json", "bpe_a/tokenizer_config.json"):
        shutil.copy(TOKENIZERS / file, folder)
    code = f"import os\nos.mkdir({str(canary)!r})\n"
    for name in ("modeling_x", "configuration_x", "tokenization_x"):
        (folder / f"{name}.py").write_text(code)
    for file, maps in (
        (
            "config.json",
            {"AutoConfig": "configuration_x.C", "AutoModelForCausalLM": "modeling_x.M"},
        ),
        ("tokenizer_config.json", {"AutoTokenizer": ["tokenization_x.T", "tokenization_x.T"]}),
    ):
        values = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**values, "auto_map": maps}))
    return folder


def test_code_beside_a_known_family_is_not_run(model):
    open_source_model(str(model)).matrices()
    load_tokenizer(f"{model}:source=Llama3")
    load_hf(str(model), "auto")


def test_code_of_an_unknown_family_is_not_run(model):
    values = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**values, "model_type": "x"}))
    for opened in (open_source_model, lambda folder: load_hf(folder, "auto")):
        with pytest.raises(ModelError):
            opened(str(model))


def test_pickled_weights_are_not_read(model, bomb):
    for file in model.glob("*.safetensors*"):
        file.unlink()
    (model / "pytorch_model.bin").write_bytes(bomb)
    for opened in (open_source_model, lambda folder: load_hf(folder, "auto")):
        with pytest.raises(ModelError, match="safetensors"):
            opened(str(model))


def test_bombs_for_weights(model, bomb):
    for file in model.glob("*.safetensors"):
        file.write_bytes(bomb)
    with pytest.raises(ModelError):
        open_source_model(str(model)).matrices()


def npz_with(path: Path, bomb: bytes, names: list[str]) -> None:
    """An archive of arrays of pickled objects."""
    array = np.array([None], dtype=object)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            with archive.open(f"{name}.npy", "w") as file:
                header = {"descr": "|O", "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(file, header)
                file.write(bomb)


def test_bombs_for_arrays(tmp_path, bomb):
    npz_with(tmp_path / "map.npz", bomb, ["mapping", "teacher", "student"])
    toks = load_tokenizer(SPEC_A), load_tokenizer(SPEC_B)
    with pytest.raises(TokenkitError):
        load_mined_mapping(tmp_path / "map.npz", *toks)
    for file in FILES:
        npz_with(tmp_path / file, bomb, ["format", "data", "indices", "indptr", "shape"])
    with pytest.raises(TokenkitError):
        load_pair_bias(str(tmp_path))


def test_bombs_for_a_teacher_cache(tmp_path, bomb):
    shard = tmp_path / "000-000000.safetensors"
    shard.write_bytes(bomb)
    entry = {"bytes": len(bomb), "hash": hash_of(shard), "tokens": 1}
    scores = TeacherScores(tmp_path, {"rows": [1], "shard_rows": 1, "files": {shard.name: entry}})
    with pytest.raises(TokenkitError, match="cannot be read"):
        scores.look_up([0], [np.arange(2)], 8)


def test_templates_run_in_a_sandbox(model, canary):
    attack = (
        "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{% if c.__name__ == 'Popen' %}"
        f"{{{{ c(['mkdir', '{canary}']) }}}}{{% endif %}}{{% endfor %}}"
    )
    values = json.loads((model / "tokenizer_config.json").read_text())
    values.pop("auto_map")
    (model / "tokenizer_config.json").write_text(json.dumps({**values, "chat_template": attack}))
    with pytest.raises(TokenkitError):
        load_tokenizer(f"{model}").encode_chat([{"role": "user", "content": "hello"}])
