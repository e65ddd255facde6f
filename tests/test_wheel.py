"""A wheel holds what a checkout has beside the package, and works without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", reason="a wheel is built with setuptools, which is not installed")

ROOT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "train.py", "train_configs")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, because building leaves folders beside the sources."""
    source = tmp_path_factory.mktemp("source")
    for part in (*PARTS, "tokenkit"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    output = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
               "--disable-pip-version-check", "--quiet", "--wheel-dir", output, source]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = output.glob("*.whl")
    return path


def test_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (points,) = (name for name in names if name.endswith("/entry_points.txt"))
        assert "tokenkit = tokenkit.cli.main:main" in archive.read(points).decode()
        assert archive.read("tokenkit/train.py") == (ROOT / "train.py").read_bytes()
    assert {"tokenkit/py.typed", "tokenkit/__main__.py"} <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "tokenkit").rglob("*.py")}
    assert modules <= names
    recipes = {path.name for path in (ROOT / "train_configs").glob("*.toml")}
    recipes = {f"tokenkit/recipes/{name}" for name in recipes if "debug" not in name}
    assert {name for name in names if name.startswith("tokenkit/recipes/")} == recipes
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tokenkit"}


def test_it_works_alone(wheel, tmp_path):
    """From the wheel itself unpacked, with no checkout on the path."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}

    def tokenkit(*arguments):
        command = [sys.executable, "-m", "tokenkit", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    done = tokenkit("train", "--help")
    assert done.returncode == 0 and "--training.steps" in done.stdout
    done = tokenkit("train", "--job.config_file", "nothing")
    assert done.returncode == 2 and "smollm2_to_qwen2" in done.stderr
    assert "debug" not in done.stderr  # as it would be in a checkout
    done = tokenkit("train", "--job.config_file", "smollm2_to_qwen2", "--optimizer.lr", "-1")
    assert done.returncode == 2 and "optimizer.lr = -1" in done.stderr, done.stderr
