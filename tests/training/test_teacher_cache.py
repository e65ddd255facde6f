"""A teacher cache knows what it was made of; a run that it does not fit is refused by one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.launch import SPEC_A, SPEC_B, read_losses, start_training, train
from tests.models.tiny import save_tiny
from tokenkit.training import fingerprint as fingerprints
from tokenkit.training.fingerprint import fingerprint
from tokenkit.training.teacher_cache.meta import read_meta

PROGRAM = "tokenkit.cli.cache_teacher"


def write_cache(argv: list[str], output: Path) -> Path:
    train(["--output", str(output), *argv], 1, output.with_suffix(".log"), program=PROGRAM)
    return output


@pytest.fixture(scope="module")
def other_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "other"
    return save_tiny(folder, "llama", seed=1, vocab_size=1505, num_hidden_layers=3)


@pytest.fixture(scope="module")
def arguments(base_arguments) -> list[str]:
    return [*base_arguments, "--training.steps", "3"]


@pytest.fixture(scope="module")
def own_cache(arguments, tmp_path_factory) -> Path:
    """Of self-distillation."""
    return write_cache(arguments, tmp_path_factory.mktemp("own") / "cache")


@pytest.fixture(scope="module")
def teacher_cache(arguments, other_model, tmp_path_factory) -> Path:
    """Of a teacher of its own, which reads another tokenizer than the student begins with."""
    teacher = ["--teacher.model", str(other_model), "--teacher.tokenizer", SPEC_B]
    return write_cache([*arguments, *teacher], tmp_path_factory.mktemp("teacher") / "cache")


def refusal(argv: list[str], folder: Path) -> str:
    """The one line with which a run ends before its first step."""
    folder.mkdir()
    output = ["--job.output_dir", str(folder)]
    (process,) = start_training([*argv, *output], 1, folder / "log")
    process.join(60)
    log = (folder / "log").read_text()
    assert process.exitcode == 2 and "Traceback" not in log, log[-3000:]
    (line,) = [line for line in log.splitlines() if line.startswith("error: ")]
    return line


def test_meta_holds_what_the_scores_depend_on(own_cache, teacher_cache, other_model, texts_file):
    meta, theirs = read_meta(own_cache), read_meta(teacher_cache)
    assert meta["teacher"]["self_distillation"] and not theirs["teacher"]["self_distillation"]
    assert theirs["teacher"]["model"] == str(other_model)
    assert meta["teacher"]["weights"] != theirs["teacher"]["weights"]
    assert meta["teacher"]["dtype"] == "float32"
    assert meta["tokenizer"]["spec"] == SPEC_A and theirs["tokenizer"]["spec"] == SPEC_B
    (source,) = meta["data"]
    assert source["name"] == str(texts_file) and source["bytes"] == texts_file.stat().st_size
    settings = meta["settings"]
    assert settings["training.max_teacher_length"] == 96 and settings["job.seed"] == 1234
    assert settings["chat.text_mode"] == "direct_encode" and settings["data.shuffle"] is True
    assert (meta["steps"], meta["batch_size"]) == (3, 8)
    assert meta["rows"] == [24] and not meta["whole"] and meta["scores"] == "float32"
    assert sum(entry["tokens"] for entry in meta["files"].values()) == meta["tokens"] > 24


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        (["--training.steps", "4"], ["24 rows (3 steps of 8)", "32 (4 of 8)", "training.steps"]),
        (["--training.batch_size", "16"], ["24 rows (3 steps of 8)", "48 (3 of 16)"]),
        (["--student.model", "{other}"], ["student.model", "weights", "{other}", "{model}"]),
        (["--teacher.model", "{other}"], ["teacher.model", "weights", "{other}", "{model}"]),
        (["--teacher.tokenizer", SPEC_B], ["teacher.tokenizer", SPEC_A, SPEC_B]),
        (["--data.train", "{texts}"], ["data.train", "bytes", "{texts}"]),
        (["--data.train", "{data},{texts}"], ["sources in data.train = 1", "has 2"]),
        (["--data.shuffle", "false"], ["data.shuffle = True", "has False"]),
        (["--data.weights", "2.0"], ["data.weights = []", "has [2.0]"]),
        (["--job.seed", "7"], ["job.seed = 1234", "has 7"]),
        (["--training.max_teacher_length", "64"], ["max_teacher_length = 96", "has 64"]),
        (["--training.dtype", "bfloat16"], ["training.dtype = 'float32'", "has 'bfloat16'"]),
        (["--chat.loss_on", "assistant"], ["chat.loss_on = 'all'", "has 'assistant'"]),
        (["--chat.text_mode", "surround_instruct"], ["chat.text_mode", "'surround_instruct'"]),
        (["--alm.space_mask_mode", "space"], ["alm.space_mask_mode", "has 'space'"]),
    ],
    ids=lambda value: value[0].removeprefix("--") + value[1][:12] if "--" in value[0] else "",
)  # fmt: skip
def test_another_run_is_refused(
    arguments, own_cache, other_model, tiny_llama, texts_file, tmp_path, extra, parts
):
    texts = tmp_path / "texts.jsonl"
    lines = texts_file.read_text().splitlines()
    texts.write_text("\n".join([*lines[:-1], lines[-1].replace("39", "93")]) + "\n")
    values = {"other": other_model, "model": tiny_llama, "texts": texts, "data": texts_file}
    filled = [value.format(**values) for value in extra]
    cache = ["--teacher.cache", str(own_cache)]
    line = refusal([*arguments, *cache, *filled], tmp_path / "run")
    for part in ["teacher.cache = ", str(own_cache), "cache-teacher", *parts]:
        assert part.format(**values)[-12:] in line  # a long path loses its middle


def test_the_tokenizer_and_a_copy_of_everything_do(arguments, teacher_cache, other_model, tmp_path):
    """The cache says the tokenizer, and neither model nor data must stay where they were."""
    (tmp_path / "live").mkdir()
    (tmp_path / "cached").mkdir()
    teacher = ["--teacher.model", str(other_model), "--teacher.tokenizer", SPEC_B]
    run = [*arguments, *teacher, "--job.output_dir", str(tmp_path / "live")]
    train(run, 1, tmp_path / "live" / "log")

    texts = shutil.copy(arguments[arguments.index("--data.train") + 1], tmp_path / "moved.jsonl")
    model = shutil.copytree(other_model, tmp_path / "moved")
    cache = ["--teacher.cache", str(teacher_cache), "--data.train", str(texts)]
    for name in ([], ["--teacher.model", str(model)]):
        shutil.rmtree(tmp_path / "cached")
        (tmp_path / "cached").mkdir()
        run = [*arguments, *cache, *name, "--job.output_dir", str(tmp_path / "cached")]
        train(run, 1, tmp_path / "cached" / "log")
        wanted = pytest.approx(read_losses(tmp_path / "live"), rel=1e-6)
        assert read_losses(tmp_path / "cached") == wanted


def test_a_teacher_that_is_not_here_is_known_by_its_name(arguments, teacher_cache, tmp_path):
    meta = read_meta(teacher_cache)
    known = {**meta["teacher"], "model": "org/big"}
    cache = ["--teacher.cache", str(edited(teacher_cache, tmp_path / "cache", teacher=known))]
    line = refusal([*arguments, *cache, "--teacher.model", "org/huge"], tmp_path / "other")
    assert "teacher.model = 'org/big', this run has 'org/huge'" in line
    output = ["--job.output_dir", str(tmp_path)]
    train([*arguments, *cache, "--teacher.model", "org/big", *output], 1, tmp_path / "log")


def edited(cache: Path, folder: Path, **changes) -> Path:
    """A copy of a cache with another ``meta.json``."""
    copy = shutil.copytree(cache, folder)
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps({**meta, **changes}))
    return copy


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"format": 2}, "has format 2, this version reads 3"),
        ({"steps": "3"}, "meta.json: steps is str, not int"),
        ({"rows": True}, "meta.json: rows is bool, not list"),
        ({"rows": [True]}, "meta.json: rows[0] is bool, not int"),
        ({"rows": [-1]}, "a number of rows is too small"),
        ({"shard_rows": 0}, "a number of rows is too small"),
        ({"files": {"x": {"bytes": 3}}}, "meta.json: files: x: hash is NoneType, not str"),
        ({"teacher": None}, "meta.json: teacher is NoneType, not dict"),
        ({"tokenizer": {"spec": 3, "fingerprint": ""}}, "meta.json: tokenizer: spec is int"),
        ({"data": [{"name": "x"}]}, "meta.json: data[0]: files is NoneType, not int"),
        ({"rows": [50]}, "its files are not those of 50 rows"),
        ({"rows": [23]}, "its arrays are not those of 23 rows"),
    ],
    ids=str,
)
def test_a_damaged_cache_is_refused(arguments, own_cache, tmp_path, changes, part):
    cache = edited(own_cache, tmp_path / "cache", **changes)
    line = refusal([*arguments, "--teacher.cache", str(cache)], tmp_path / "run")
    assert part in line and str(cache) in line and "cache-teacher" in line


def test_files_that_are_not_as_they_were_written_are_refused(arguments, own_cache, tmp_path):
    cache = shutil.copytree(own_cache, tmp_path / "cache")
    (file,) = cache.glob("*.safetensors")
    data = file.read_bytes()
    for number, (changed, part) in enumerate(
        [
            (data[:-9], f"has {len(data) - 9:,} bytes, {len(data):,} were written"),
            (data[:-9] + b"\1" + data[-8:], "was changed after it was written"),
        ]
    ):
        file.write_bytes(changed)
        line = refusal([*arguments, "--teacher.cache", str(cache)], tmp_path / f"run{number}")
        assert "is damaged: 000-000000.safetensors " in line and part in line


def test_fingerprints_see_any_block_that_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "WHOLE_BYTES", 100)
    monkeypatch.setattr(fingerprints, "BLOCK_BYTES", 10)
    monkeypatch.setattr(fingerprints, "BLOCKS", 4)
    file = tmp_path / "file"
    original = bytes(range(200))
    file.write_bytes(original)
    whole = fingerprint([file])
    # Blocks begin at 0, 63, 126 and 190.
    for place, seen in [(0, True), (9, True), (10, False), (63, True), (135, True), (199, True)]:
        file.write_bytes(original[:place] + b"\xff" + original[place + 1 :])
        assert (fingerprint([file]) != whole) == seen, place
    file.write_bytes(original[:50])
    short = fingerprint([file])
    file.write_bytes(original[:30] + b"\xff" + original[31:50])
    assert fingerprint([file]) != short and fingerprint([file, file]) != fingerprint([file])
