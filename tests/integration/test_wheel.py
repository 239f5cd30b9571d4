"""The wheel: what it holds, and that it does in an empty environment what the clone does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

SMALL = [
    "iterations=3",
    "recipe.responses=16",
    "recipe.mini_batch=8",
    "task.max_response_tokens=8",
    "evaluation.problems=4",
    "evaluation.samples=2",
    "evaluation.ks=[1]",
]
# Kept out of the copy that the wheel is built from: what is large and none of it.
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", "outputs", "multirun", "__pycache__", ".*_cache", "dist", "tests"
)
pytest.importorskip("hatchling", reason="make test installs it")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built by the project's own backend, in a process of its own, from a copy."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=LEFT_OUT)
    build = "from hatchling.build import build_wheel; print(build_wheel('..'))"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", build]
    subprocess.run(command, cwd=folder / "source", env=environment, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_programs_configuration_models_and_sandbox_as_they_are(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        for program in ("train.py", "eval.py"):
            assert archive.read(f"pipo/programs/{program}") == (ROOT / program).read_bytes()
        entry = archive.read(next(each for each in archive.namelist() if each.endswith("entry_points.txt")))
        licences = [name for name in archive.namelist() if name.endswith("LICENSE")]
    assert b"pipo = pipo.__main__:main" in entry
    assert len(licences) == 1
    ours = {
        f"{above}{path.relative_to(ROOT / folder)}"
        for folder, above in (
            ("pipo", "pipo/"),
            ("conf", "pipo/programs/conf/"),
            ("hydra_plugins", "hydra_plugins/"),
            ("sandbox/pipo_sandbox", "pipo_sandbox/"),
        )
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == ours | {"pipo/programs/train.py", "pipo/programs/eval.py"}


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Programs of an environment that holds the wheel and, besides, this environment's libraries."""
    place = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "env"], check=True)
    bin_folder, python = place / "env/bin", place / "env/bin/python"
    (site,) = (place / "env").glob("lib/python*/site-packages")
    # A path that is named in a file adds its packages and nothing that it names in turn, as the clone.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    work = place / "work"
    work.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def do(*words: str, **variables: str) -> str:
        done = subprocess.run(
            [str(bin_folder / words[0]), *words[1:]],
            cwd=work,
            env={**environment, **variables, "PATH": f"{bin_folder}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    do.work = work  # type: ignore[attr-defined]
    where = do("python", "-c", "import pipo; print(pipo.__file__)")
    assert Path(where.strip()) == site / "pipo/__init__.py"
    return do


@pytest.mark.slow
def test_an_installed_wheel_trains_scores_plots_and_goes_on(run):
    """As in the clone, but that the commands it names are those of the wheel."""
    said = run("pipo", "train", *SMALL, "output_dir=first")
    assert "pipo train resume=first iterations=6" in said
    assert len((run.work / "first/metrics.jsonl").read_text().splitlines()) == 3
    assert '"git": null' in (run.work / "first/run.jsonl").read_text()
    run("pipo", "train", "resume=first", "iterations=4")
    assert len((run.work / "first/metrics.jsonl").read_text().splitlines()) == 4
    run("pipo", "eval", "model=first", "evaluation.problems=4", "evaluation.samples=1", "evaluation.ks=[1]")
    run("pipo", "plot", "first", "--out", "figure.png")
    run("pipo", "report", "first")


@pytest.mark.slow
def test_an_installed_wheel_starts_its_own_further_processes_and_jobs(run):
    """Ranks and jobs of a sweep are programs of their own, which find a class in the current folder."""
    (run.work / "mine.py").write_text(
        "from lightning.pytorch import Callback\n"
        "class Told(Callback):\n"
        "    def on_train_end(self, trainer, module):\n"
        "        open(f'told-{trainer.global_rank}', 'w').close()\n"
    )
    two = ["strategy=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    run("pipo", "train", *SMALL, *two, "output_dir=two", "+callbacks.told._target_=mine.Told")
    assert sorted(path.name for path in run.work.glob("told-*")) == ["told-0", "told-1"]
    run("pipo", "train", "-m", *SMALL, "seed=1,2", "hydra.sweep.dir=sweep")
    assert len(list(run.work.glob("sweep/*/summary.json"))) == 2


@pytest.mark.slow
def test_an_installed_wheel_completes_words_as_hydra_does(run):
    def completed(line: str) -> set[str]:
        return set(run("pipo", "-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line))).split())

    assert {"train", "eval", "plot"} <= completed("pipo tr")
    assert {"algo=grpo", "algo=ppo"} <= completed("pipo train algo=")
    assert {"benchmark=math", "benchmark=code"} <= completed("pipo eval benchmark=")
    assert completed("pipo plot ") == set()
    script = run("pipo", "-sc", "install=bash")
    assert script.rstrip().endswith("hydra_bash_completion pipo")
