"""A wheel holds what a checkout has beside the package, and works without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", reason="a wheel is built with setuptools, which is not installed")

ROOT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "train.py", "train_configs")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy, because building leaves folders beside the sources."""
    source = tmp_path_factory.mktemp("source")
    for part in (*PARTS, "tokenkit"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, source / part)
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
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
    shipped = (p for p in (ROOT / "train_configs").rglob("*") if p.is_file())
    recipes = {f"tokenkit/recipes/{path.relative_to(ROOT / 'train_configs')}" for path in shipped}
    assert {name for name in names if name.startswith("tokenkit/recipes/")} == recipes
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tokenkit"}


@pytest.fixture(scope="module")
def tokenkit(wheel, tmp_path_factory):
    """The installed command, in an environment of its own and a folder far from the checkout.

    What tokenkit needs is read from this environment, so that nothing is downloaded.
    """
    place = tmp_path_factory.mktemp("user")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True)
    python = place / "venv" / "bin" / "python"
    site = Path(sysconfig.get_paths(vars={"base": str(place / "venv")})["purelib"])
    (site / "needed.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")))
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet",
               "--ignore-installed"]  # fmt: skip
    subprocess.run([*install, "--disable-pip-version-check", "--no-index", wheel], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [place / "venv" / "bin" / "tokenkit", *arguments]
        return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)

    run.place = place
    where = [python, "-c", "import tokenkit; print(tokenkit.__file__)"]
    found = subprocess.run(where, cwd=place, env=environment, capture_output=True, text=True)
    assert found.stdout.startswith(str(site)), found.stdout + found.stderr
    return run


def test_it_works_alone(tokenkit):
    done = tokenkit("--help")
    assert done.returncode == 0 and "quickstart" in done.stdout
    done = tokenkit("train", "--help")
    assert done.returncode == 0 and "--training.steps" in done.stdout
    done = tokenkit("train", "--job.config_file", "nothing")
    assert done.returncode == 2 and "recipes: debug" in done.stderr
    done = tokenkit("train", "--job.config_file", "smollm2_to_qwen2", "--optimizer.lr", "-1")
    assert done.returncode == 2 and "optimizer.lr = -1" in done.stderr, done.stderr


def test_the_smoke_test_reads_what_is_installed(tokenkit):
    done = tokenkit("train", "--job.config_file", "debug", "--training.steps", "2")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tokenkit.place / "outputs" / "debug" / "metrics.jsonl").is_file()


def _figures(text: str) -> list[str]:
    """The table of what was reached."""
    return [line for line in text.splitlines() if "tokenizer" in line and "$" not in line][-3:]


def test_quickstart_and_a_transfer_of_its_model(tokenkit):
    done = tokenkit("quickstart", "--quick")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    made = tokenkit.place / "outputs" / "quickstart_quick"
    assert "gap closed:" in done.stdout and "tensorboard --logdir" in done.stdout
    assert (made / "student" / "model.safetensors").is_file()
    again = tokenkit("quickstart", "--quick")
    assert again.returncode == 0, again.stderr[-2000:]
    assert "tokenkit export" in done.stdout
    assert "tokenkit export" not in again.stdout  # finished stages are reused
    assert _figures(again.stdout) == _figures(done.stdout)
    target = f"{made / 'tokenizer_b'}:source=Qwen2:target=Llama3"
    given = ("--steps", "2", "--length", "32", "--own-texts", "8")
    done = tokenkit("transfer", str(made / "teacher"), "--to", target, "--output", "moved", *given)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (tokenkit.place / "moved" / "model" / "model.safetensors").is_file()


def test_the_source_distribution_holds_what_the_wheel_is_made_of(source, tmp_path):
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", build, tmp_path]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"tokenkit/py.typed", "train.py", "train_configs/debug/text.jsonl", "LICENSE"}
    assert wanted <= names
    assert {f"train_configs/{p.name}" for p in (ROOT / "train_configs").glob("*.toml")} <= names
