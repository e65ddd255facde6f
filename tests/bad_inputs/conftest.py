"""Broken files, and arguments of a small good run."""

from __future__ import annotations

import pytest

from tests.bad_inputs import files_data, files_models  # noqa: F401 (they add makers)
from tests.bad_inputs.files import Files
from tests.launch import SPEC_A, SPEC_B


@pytest.fixture(scope="session")
def files(tmp_path_factory, tiny_llama) -> Files:
    return Files(tmp_path_factory.mktemp("files"), tiny_llama)


@pytest.fixture(scope="session")
def small_run(files) -> list[str]:
    return [
        f"--student.model={files.good_model}",
        f"--student.tokenizer={SPEC_A}",
        f"--student.target_tokenizer={SPEC_B}",
        "--loss.names=sft,alm_unconstrained",
        f"--data.train={files['good_rows']}",
        "--training.steps=2",
        "--training.batch_size=8",
        "--training.micro_batch_size=8",
        "--training.max_teacher_length=64",
        "--training.max_student_length=64",
        "--checkpoint.enable=false",
        "--metrics.tensorboard=false",
        "--metrics.progress=false",
        "--metrics.log_interval=1",
    ]


@pytest.fixture
def cwd(tmp_path):
    """An empty folder to run in."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    return folder
