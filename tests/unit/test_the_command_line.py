"""The command line before Hydra sees it: one line and status 2 for whatever cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pipo.config.cli import exit_code
from pipo.config.command_line import check_command_line, expand_paths, quoted
from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from pipo.runs.places import gone_if_empty
from pipo.training import train


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file, an empty folder, one of something else, and one of a run in a sweep."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("empty").mkdir()
    Path("other").mkdir()
    Path("other/thesis.tex").write_text("x")
    Path("sweep/1-seed=2,a=b/checkpoints").mkdir(parents=True)
    Path("sweep/1-seed=2,a=b/config.yaml").write_text("iterations: 1")
    return tmp_path


def ended(capsys: pytest.CaptureFixture[str], program: str, *arguments: str) -> str:
    """What is said to a command that is refused."""
    line = ["train.py", *arguments]
    expand_paths(line)
    with pytest.raises(SystemExit) as end:
        check_command_line(line[1:], program)
    said = capsys.readouterr()
    assert (end.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    return said.err.removeprefix("error: ").strip()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("output_dir=file", "/file is a file); take another"),
        ("output_dir=file/below/it", "/file is a file); take another"),
        ("output_dir=", "output_dir has no value"),
        ("output_dir=null", "output_dir has no value"),
        ("resume=file", "resume=file: is a file"),
        ("resume=typo", "resume=typo: no run here, no such folder"),
        ("resume=empty", "resume=empty: no run here (config.yaml is missing)"),
        ("resume=other", "resume=other: no run here (config.yaml is missing)"),
        (
            "resume=sweep",
            "resume=sweep: holds runs, but is none; name one of them, as resume=sweep/1-seed=2,a=b",
        ),
        ("resume=sweep/1-seed=2,a=b/checkpoints", "name that, resume=sweep/1-seed=2,a=b"),
        ("resume=", "resume has no value"),
    ],
)
def test_folders_that_cannot_be_what_they_are_named_for(place, capsys, argument, message):
    assert message in ended(capsys, "train", argument)
    assert sorted(path.name for path in place.iterdir()) == ["empty", "file", "other", "sweep"]


@pytest.mark.parametrize("program", ["train", "eval"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rollout=local,"], "rollout=local,: cannot be read as key=value"),
        (["evaluation.ks=[1"], "evaluation.ks=[1: cannot be read"),
        (["rollout.temperature=}"], "rollout.temperature=}: cannot be read"),
        (["word"], "word: cannot be read as key=value"),
        (["=x"], "=x: there is no key before the ="),
        (["=3"], "=3: there is no key before the ="),
        (
            ["rollout=null"],
            "rollout=null: rollout takes the name of an option (local, vllm, vllm_bf16), got None",
        ),
        (["model=5"], "model=5: model takes the name of an option (huggingface, "),
        (["~rollout"], "rollout: missing; it is needed"),
        (["evaluation={limit: 1}"], "what is not there yet is added with +evaluation"),
        (["rollout=typo"], "Could not find 'rollout/typo': Available options in 'rollout': local, vllm"),
        (["rollout=locla"], "did you mean rollout=local?"),
        (
            ["++logger.wandb.project=x"],
            "logger.wandb: wandb is not chosen, so there is nothing to set; add logger=",
        ),
        (
            ["rollout.engine._target_=pipo.rollout.local.LocalEngin"],
            "(pipo.rollout.local has no LocalEngin; did you mean pipo.rollout.local.LocalEngine?)",
        ),
        (["rollout.temprature=1"], "did you mean rollout.temperature?"),
        (["+rollout.typical_p=1"], "rollout.typical_p: unknown key"),
        (["rollout.engine._target_=nowhere.X"], "rollout.engine._target_: nowhere.X cannot be used"),
        (
            ["rollout.engine._target_=os.system"],
            "os.system cannot be used (Target 'os.system' is blocklisted",
        ),
        (["evaluation.seed=1,2"], "Ambiguous value for argument 'evaluation.seed=1,2'"),
        (["--foo"], "unrecognized arguments: --foo"),
        (["--config-dir", "nowhere"], "--config-dir nowhere: no such folder"),
        (["-m", "rollout=local,typo"], "Could not find 'rollout/typo'"),
        (["-m", "evaluation.seed=1,2", "+rollout.typical_p=1"], "rollout.typical_p: unknown key"),
        (["-m", "evaluation.seed=1,2", "evaluation.sed=1"], "did you mean evaluation.seed?"),
        (["-m", "rollout.engine._target_=math.sqrt,nowhere.X"], "nowhere.X cannot be used"),
        (["-m", "evaluation.seed=1,2", "output_dir=x"], "output_dir=: a sweep makes a folder per job"),
        (
            ["-m", "evaluation.seed=1,2", "hydra.sweep.dir=file/x"],
            "hydra.sweep.dir=file/x: no folder to write to",
        ),
    ],
)
def test_commands_that_cannot_be_understood(place, capsys, program, arguments, message):
    assert message in ended(capsys, program, *arguments)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("algo=gpro", "; did you mean algo=grpo?"),  # gspo is as near, by the letters that are in place
        ("pipo.name=none", "pipo.name=none: is a name for reports; a run without the loop is pipo=none"),
    ],
)
def test_a_slip_of_training_is_understood(place, capsys, typed, message):
    assert message in ended(capsys, "train", typed)


@pytest.mark.parametrize("arguments", [["-m", "rollout=glob(*)"], ["-m", "evaluation.seed=range(1,3)"]])
def test_a_sound_sweep_is_let_through(place, arguments):
    check_command_line(arguments, "eval")


@pytest.mark.parametrize(
    "value", ["plain/1-seed_2", "a=b,c", "it's", "a b", "x(1)", "[y]", "back\\slash's", "{z}", "Größe/数据"]
)
def test_a_path_is_read_by_hydra_as_it_was_typed(value):
    line = ["train.py", f"output_dir={value}"]
    expand_paths(line)
    (override,) = OverridesParser.create().parse_overrides(line[1:])
    assert override.value() == value
    assert quoted("plain/1-seed_2") == "plain/1-seed_2"


def test_a_finished_command_line_is_left_alone(place):
    given = [
        "train.py",
        "-m",
        "resume='a b'",
        "seed=1,2",
        "data_dir=${oc.env:HOME}",
        "task.path=a.jsonl,b.jsonl",
    ]
    line = [*given]
    expand_paths(line)
    assert line == given


def test_a_folder_that_only_making_it_shows_to_be_of_no_use(compose_config, capsys):
    code, _ = exit_code(lambda: train(compose_config("output_dir=/proc/nobody/can"), []))
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    assert "output_dir=/proc/nobody/can: no folder to write to (" in said


def test_what_was_made_for_nothing_goes_and_what_was_there_stays(tmp_path):
    (tmp_path / "day").mkdir()
    with gone_if_empty(tmp_path / "day/run/x"):
        (tmp_path / "day/run/x").mkdir(parents=True)
    assert list(tmp_path.rglob("*")) == [tmp_path / "day"]
    with gone_if_empty(tmp_path / "day/run"):
        (tmp_path / "day/run").mkdir()
        (tmp_path / "day/run/file").touch()
    assert (tmp_path / "day/run/file").exists()


def test_the_run_folder_of_another_program_is_no_run(compose_config, place, capsys):
    for content, message in (
        ("a: 1", "no run here (config.yaml is another program's)"),
        ("a: [1", "cannot be read"),
        ("benchmark: {}", "an evaluation; go on with python eval.py resume=other"),
    ):
        Path("other/config.yaml").write_text(content)
        code, _ = exit_code(lambda: train(compose_config("resume=other"), ["resume=other"]))
        said = capsys.readouterr().err
        assert (code, said.count("\n")) == (2, 1)
        assert message in said


@pytest.mark.parametrize(
    "words", [["~callbacks"], ["~logger"], ["logger=[csv,tensorboard]"], ["logger=many"]]
)
def test_callbacks_and_loggers_are_taken_out_and_put_together(compose_config, words):
    config = read(compose_config(*words, "output_dir=x"), TrainConfig)
    assert config.callbacks == {}
    expected = {"~callbacks": ["files"], "~logger": [], "logger=[csv,tensorboard]": ["files", "tensorboard"]}
    assert [*config.logger] == expected.get(words[0], ["files", "wandb", "tensorboard"])
