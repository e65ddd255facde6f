"""A teacher cache is the same whoever writes it, and losses with it are those of a live teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.launch import SPEC_A, read_losses, start_training, train
from tests.models.tiny import save_tiny
from tests.training.in_process import Training
from tests.training.test_teacher_cache import PROGRAM, write_cache
from tests.training.waiting import WaitingOps
from tokenkit.config import load_config
from tokenkit.data import build_train_loader
from tokenkit.errors import ConfigError, DataError
from tokenkit.training.teacher_cache import CacheWriter, TeacherScores
from tokenkit.training.teacher_cache.meta import read_meta
from tokenkit.training.tokenizers import load_tokenizers


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "teacher"
    return save_tiny(folder, "llama", seed=1, vocab_size=1505, num_hidden_layers=2)


@pytest.fixture(scope="module")
def arguments(base_arguments, teacher) -> list[str]:
    """Twenty steps: four passes over the data, each in another order."""
    return [
        *base_arguments, "--teacher.model", str(teacher), "--teacher.tokenizer", SPEC_A,
        "--training.steps", "20", "--training.micro_batch_size", "4", "--optimizer.lr", "1e-4",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def cache(arguments, tmp_path_factory) -> Path:
    """Written by one process at once."""
    return write_cache(arguments, tmp_path_factory.mktemp("whole") / "cache")


@pytest.fixture(scope="module")
def killed_cache(arguments, tmp_path_factory) -> Path:
    """Begun by two processes that were killed, one of them in the middle of a file."""
    folder = tmp_path_factory.mktemp("killed")
    output = folder / "cache"
    argv = ["--output", str(output), "--rows-per-shard", "3", *arguments]
    ranks = start_training(argv, 2, folder / "first.log", program="tests.training.killed_writer")
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks].count(-9) >= 1, (
        folder / "first.log"
    ).read_text()
    partial = folder / "cache.partial"
    writer = CacheWriter(output, 0)
    writer.open()
    kept = {name: (partial / name).stat().st_mtime_ns for name in writer.finished}
    assert 2 <= len(kept) < 14 and not output.exists()
    assert set(kept) < {path.name for path in partial.glob("*.safetensors")}  # one is half there
    train(argv, 1, folder / "second.log", program=PROGRAM)
    assert not partial.exists()
    assert kept == {name: (output / name).stat().st_mtime_ns for name in kept}
    assert {path.name for path in output.iterdir()} == {*read_meta(output)["files"], "meta.json"}
    return output


def scores_of(cache: Path, arguments: list[str]) -> list[torch.Tensor]:
    """Of all real tokens that are scored, step by step, as batches bring them along."""
    config = load_config([*arguments, "--teacher.cache", str(cache)])
    tokenizers = load_tokenizers(config, needs_teacher=True)
    known = TeacherScores(cache, read_meta(cache))
    toks = tokenizers.student, tokenizers.teacher
    loader = build_train_loader(config, *toks, (), 0, 1, known=known)
    found = []
    for _, step in zip(range(20), loader, strict=False):
        for batch in step.micro_batches:
            seq = batch.teacher
            found += [seq.known[name][seq.scored] for name in ("token_logprob", "boundary_logprob")]
            assert not seq.known["token_logprob"][~seq.scored].any()
    return found


def test_two_killed_writers_and_one_write_the_same(cache, killed_cache, arguments):
    one, two = scores_of(cache, arguments), scores_of(killed_cache, arguments)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    assert len(read_meta(cache)["files"]) == 1 and len(read_meta(killed_cache)["files"]) == 14


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "extra"),
    [(2, ["--parallelism.tensor_parallel_degree", "2"]), (3, ["--rows-per-shard", "7"])],
    ids=["tensor parallel", "more ranks than shards of a round"],
)
def test_other_layouts_write_the_same(cache, arguments, tmp_path, ranks, extra):
    output = tmp_path / "cache"
    train(["--output", str(output), *arguments, *extra], ranks, tmp_path / "log", program=PROGRAM)
    one, two = scores_of(cache, arguments), scores_of(output, arguments)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_losses_are_those_of_a_live_teacher(cache, killed_cache, arguments, tmp_path, ranks):
    losses = {}
    for name, extra in (
        ("live", []),
        ("cached", ["--teacher.cache", str(cache), "--data.num_workers", "2"]),
        ("killed", ["--teacher.cache", str(killed_cache)]),
    ):
        (tmp_path / name).mkdir()
        run = [*arguments, *extra, "--job.output_dir", str(tmp_path / name)]
        train(run, ranks, tmp_path / name / "log")
        losses[name] = read_losses(tmp_path / name)
    assert len(losses["live"]) == 20
    assert losses["cached"] == pytest.approx(losses["live"], rel=1e-6, abs=0)
    assert losses["killed"] == pytest.approx(losses["live"], rel=1e-6, abs=0)


def test_scores_are_those_of_transformers(cache, arguments, teacher):
    config = load_config([*arguments, "--data.num_workers", "0"])
    tokenizers = load_tokenizers(config, needs_teacher=True)
    known = TeacherScores(cache, read_meta(cache))
    toks = tokenizers.student, tokenizers.teacher
    step = next(iter(build_train_loader(config, *toks, (), 0, 1, known=known)))
    model = AutoModelForCausalLM.from_pretrained(teacher).eval()
    seq = step.micro_batches[0].teacher
    for row in range(len(seq.ids)):
        ids = seq.ids[row][seq.mask[row]]
        with torch.no_grad():
            logprobs = model(ids[None]).logits[0, :, : len(tokenizers.teacher)].log_softmax(-1)
        wanted = logprobs[:-1].gather(1, ids[1:, None])[:, 0]
        found = seq.known["token_logprob"][row, 1 : len(ids)]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_bytes(cache, arguments, tmp_path):
    """All data files: at most two numbers a token, lengths and checks included."""
    bfloat16 = write_cache([*arguments, "--scores", "bfloat16"], tmp_path / "half")
    for folder, most in ((cache, 8), (bfloat16, 4)):
        meta = read_meta(folder)
        (file,) = folder.glob("*.safetensors")
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        assert meta["rows"] == [40] and meta["whole"]
        assert file.stat().st_size - header <= most * meta["tokens"] - 40
    half, full = scores_of(bfloat16, arguments), scores_of(cache, arguments)
    torch.testing.assert_close(half, full, rtol=2**-8, atol=1e-6)


def test_a_cache_of_all_rows_serves_longer_runs(cache, arguments, tmp_path):
    run = [*arguments, "--teacher.cache", str(cache), "--training.steps", "24"]
    train([*run, "--job.output_dir", str(tmp_path)], 1, tmp_path / "log")
    assert len(read_losses(tmp_path)) == 24


def test_other_tokens_are_found_out(cache):
    known = TeacherScores(cache, read_meta(cache))
    rows = [torch.arange(2, 2 + length).numpy() for length in (30, 31, 95)]
    with pytest.raises(DataError, match="scores of other tokens for a row .*have changed"):
        known.look_up([0, 1, 2], rows, 96)
    with pytest.raises(DataError, match="lacks a row"):
        known.look_up([40], rows, 96)


def test_parts_of_another_cache_are_not_gone_on_with(tmp_path):
    meta = {"rows": [9], "shard_rows": 3, "settings": {"job.seed": 1}, "teacher": {"dtype": "a"}}
    writer = CacheWriter(tmp_path / "cache", 0)
    writer.begin(meta)
    writer.begin({**meta, "shard_rows": 5})  # what was begun decides
    writer.open()
    assert writer.plan.shard_rows == 3 and len(writer.missing) == 3
    for changed, part in (
        ({"rows": [10]}, r"rows = \[9\] there, \[10\] here"),
        ({"settings": {"job.seed": 2}}, "job.seed = 1 there, 2 here"),
        ({"teacher": {"dtype": "b"}}, "teacher: dtype = 'a' there, 'b' here"),
    ):
        with pytest.raises(ConfigError, match=rf"cache\.partial.*{part}; delete it, or name"):
            writer.begin({**meta, **changed})


def test_a_step_with_it_asks_the_device_for_nothing(cache, arguments, parallel):
    """Scores come with the batch: no look-up, copy or operation where a live teacher reads."""
    run = [*arguments, "--training.micro_batch_size", "8", "--optimizer.fused", "true"]
    training = Training(load_config([*run, "--teacher.cache", str(cache)]), parallel)
    training(training.batch(), 0)
    batch = training.batch()
    with WaitingOps() as ops:
        training(batch, 1)
    assert not ops.found
    with WaitingOps() as ops:
        read = training.step.teacher.read(batch.micro_batches[0].teacher, {"label", "boundary"})
    assert not ops.calls
    assert read.token_logprob.dtype == torch.float32 and (read.token_logprob < 0).any()
