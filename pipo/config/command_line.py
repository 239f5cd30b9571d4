"""Check the command line before Hydra sees it: quote paths, refuse overrides and sweeps that cannot work.

A sweep is looked at job by job, so that it is refused as a whole before the first of them starts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from pipo.config.cli import first_line, own_error
from pipo.config.near_miss import near, near_miss
from pipo.config.open_nodes import TARGET, Open, target_of
from pipo.config.reading import read
from pipo.config.tree import EvalConfig, GradeConfig, TrainConfig
from pipo.distributed.processes import is_first
from pipo.errors import ConfigError
from pipo.home import CONF
from pipo.records.options import Options
from pipo.runs.places import check_place, check_run
from pipo.runs.push import check_push

# More jobs of a sweep are left to themselves.
_JOBS = 200
# What ends a word for Hydra unless it is quoted; letters beyond ASCII are none of its words.
_SPECIAL = re.compile(r"[\s=,(){}\[\]'\":;|&*?!<>~#%^`\\]|[^\x00-\x7f]")
_PROGRAMS = {"train": TrainConfig, "eval": EvalConfig, "grade": GradeConfig}


def quoted(value: str) -> str:
    """A value as Hydra reads it whole."""
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", value)
    return f"'{escaped}'" if _SPECIAL.search(value) else value


def expand_paths(arguments: list[str], *keys: str) -> None:
    """Let a path be typed, or completed by the shell, whatever letters it holds.

    Args:
        arguments: the command line, changed in place: a value that is there as a file or folder gets Hydra's
            quotes, and so does every output_dir and resume, of which there is one on a line.
        *keys: further keys whose value is one path.
    """
    for index, argument in enumerate(arguments):
        key, equals, value = argument.partition("=")
        if not equals or argument.startswith("-") or value[:1] in ("'", '"') or "${" in value:
            continue
        file = value.rpartition(":")[0] if key == "reward" else value  # file.py:function
        if key.lstrip("+") in ("output_dir", "resume", *keys) or os.path.exists(os.path.expanduser(file)):
            arguments[index] = f"{key}={quoted(value)}"


def expand_model(arguments: list[str]) -> None:
    """Let ``model=`` name a folder, a checkpoint or a hub id as well as an option of ``conf/model``.

    Args:
        arguments: the command line, changed in place: ``model=x`` becomes ``model=huggingface model.path=x``
            when x is not an option but looks like a path or an id.
    """
    options = {path.stem for path in (CONF / "model").glob("*.yaml")}
    for index, argument in enumerate(arguments):
        key, _, value = argument.partition("=")
        if key == "model" and value not in options and ("/" in value or os.path.exists(value)):
            path = value if value[:1] in ("'", '"') else quoted(value)
            arguments[index : index + 1] = ["model=huggingface", f"model.path={path}"]
            return


def expand_task(arguments: list[str]) -> None:
    """Let ``task=`` and ``task.<key>=`` mean in ``eval.py`` what they mean in ``train.py``.

    Args:
        arguments: the command line of ``eval.py``, changed in place: ``task=x`` becomes a benchmark with x as
            its only part, and a key of the task one of that part. With a benchmark on the same line the
            program ends: only one can be meant.
    """
    given: dict[str, str] = {}
    for argument in arguments:
        name, _, value = argument.partition("=")
        given[name] = value
    if "task" not in given:
        return
    if "benchmark" in given:
        _end("task= and benchmark= both say what to score; name one of them")
    part = f"benchmark.parts.{given['task']}"
    benchmark = ["~benchmark", f"+task@{part}={given['task']}", f"+benchmark.name={given['task']}"]
    arguments[:] = [
        word
        for argument in arguments
        for word in (
            benchmark
            if argument.partition("=")[0] == "task"
            else [re.sub(r"^(\+*)task\.", rf"\1{part}.", argument)]
        )
    ]


def expand_open(arguments: list[str]) -> None:
    """Let what these nodes take be typed with and without Hydra's ``+``, whether it is there already or not.

    Args:
        arguments: the command line, changed in place: ``trainer.max_time=x`` becomes
            ``++trainer.max_time=x``. Which keys there are is said by Lightning's trainer, and by the class
            that ``_target_`` names.
    """
    for index, argument in enumerate(arguments):
        if re.match(r"\+{0,2}(?:trainer|callbacks|logger)\.[^=]+=", argument):
            arguments[index] = f"++{argument.lstrip('+')}"


def check_command_line(arguments: Sequence[str], program: str) -> DictConfig | None:
    """End with one line and status 2 when the command cannot work; nothing heavy is imported for that.

    Args:
        arguments: the command line without the program's name.
        program: ``train``, ``eval`` or ``grade``.

    Returns:
        The configuration of a single run; None where Hydra is asked for more, or for anything else.
    """
    options = _hydra_options(arguments)
    asked = options.help or options.hydra_help or options.info or options.shell_completion
    if asked or options.experimental_rerun or options.config_path:
        return None
    overrides, checked = list(options.overrides), None
    try:
        if options.config_dir is not None:
            overrides.append(_search_path(options.config_dir))
        with _composing(options.config_name or program):
            for job in _jobs(overrides, options.config_name or program, sweeps=options.multirun):
                _check_job(job, program, printed=options.cfg is not None)
                checked = job
    except ConfigError as error:
        _end(str(error))
    if checked is None or options.multirun or options.cfg or options.resolve or options.package:
        return None
    # What Hydra tells of itself when it is to be verbose is its own to tell, and so is where it has looked.
    alone = options.config_dir is not None or checked.hydra.mode == RunMode.MULTIRUN or checked.hydra.verbose
    return None if alone else checked


def composed_job(overrides: Sequence[str], program: str) -> DictConfig:
    """The configuration of one run, for a caller that is no command line.

    Args:
        overrides: words of the command line.
        program: ``train`` or ``eval``.

    Raises:
        ConfigError: the command cannot work.
    """
    with _composing(program):
        (job,) = _jobs(overrides, program, sweeps=False)
        _check_job(job, program, printed=False)
        with open_dict(job):
            del job["hydra"]
        return job


def hydra_here() -> initialize_config_dir:
    """Inside, Hydra composes from ``conf/`` what the program that was started is called by."""
    return initialize_config_dir(version_base="1.3", config_dir=str(CONF), job_name=Path(sys.argv[0]).stem)


@contextmanager
def _composing(name: str) -> Iterator[None]:
    """Hydra looks into ``conf/``; what it objects to becomes one line."""
    try:
        with hydra_here():
            yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_said(error, name)) from error


def _hydra_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's own options; of one that it does not know, its parser would print the usage."""
    parser = get_args_parser()
    parser.error = lambda message: _end(message)  # type: ignore[method-assign]
    return parser.parse_args(list(arguments))


def _search_path(folder: str) -> str:
    if not Path(folder).is_dir():
        raise ConfigError(f"--config-dir {folder}: no such folder")
    return f"hydra.searchpath=[{quoted(f'file://{Path(folder).resolve()}')}]"


def _jobs(overrides: Sequence[str], name: str, *, sweeps: bool) -> Iterator[DictConfig]:
    """The configuration of every job; of a single run, its own."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    parsed = [_parsed(parser, each) for each in overrides]
    swept = [each for each in parsed if each.is_sweep_override()]
    fixed = [text for text, each in zip(overrides, parsed, strict=True) if not each.is_sweep_override()]
    cfg = compose(name, overrides=fixed, return_hydra_config=True)
    if not sweeps and cfg.hydra.mode != RunMode.MULTIRUN:
        # Without -m, Hydra says itself what is wrong with several values.
        yield compose(name, overrides=list(overrides), return_hydra_config=True) if swept else cfg
        return
    _check_sweep(cfg, [each.get_key_element() for each in parsed])
    given = {each.get_key_element() for each in parsed}
    params = OmegaConf.to_container(cfg.hydra.sweeper.get("params") or OmegaConf.create(), resolve=True)
    assert isinstance(params, dict)
    more = [_parsed(parser, f"{key}={value}") for key, value in params.items() if key not in given]
    choices = [_values(each) for each in (*more, *swept)]
    for chosen in itertools.islice(itertools.product(*choices), _JOBS):
        # Whatever the job is, it is part of the sweep, which names its folder.
        yield compose(name, overrides=["hydra.mode=MULTIRUN", *fixed, *chosen], return_hydra_config=True)


def _parsed(parser: OverridesParser, text: str) -> Override:
    try:
        (override,) = parser.parse_overrides([text])
    except HydraException as error:
        raise ConfigError(
            f"{text}: cannot be read as key=value; a value with spaces or any of =,()[]{{}} needs quotes for "
            "Hydra within those for the shell: \"key='...'\""
        ) from error
    if not override.key_or_group:
        raise ConfigError(f"{text}: there is no key before the =")
    name = override.value() if not override.is_sweep_override() else ""
    names = isinstance(name, str | list | dict)  # a dictionary is merged with the option's
    if _is_group(override.key_or_group) and not override.is_delete() and not names:
        group = override.key_or_group
        options = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
        raise ConfigError(f"{text}: {group} takes the name of an option ({options}), got {name!r}")
    return override


def _is_group(key: str) -> bool:
    return (CONF / key).is_dir()


def _check_sweep(cfg: DictConfig, keys: Sequence[str]) -> None:
    """One folder for all jobs makes no sense, nor one that cannot be made.

    Raises:
        ConfigError: naming the key.
    """
    for key in ("output_dir", "resume"):
        if key in keys:
            raise ConfigError(f"{key}=: a sweep makes a folder per job; name theirs with hydra.sweep.dir=")
    check_place(Path(str(cfg.hydra.sweep.dir)), "hydra.sweep.dir")


def _values(override: Override) -> list[str]:
    """What a job may get of a sweep; of an interval its lower end."""
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}"]
    if override.is_sweep_override():
        return [f"{key}={each}" for each in override.sweep_string_iterator()]
    return [override.input_line or key]


def _check_job(cfg: DictConfig, program: str, *, printed: bool) -> None:
    """Look at what is known before anything is imported; what is only printed needs no classes."""
    _check_chosen(cfg)
    config = read(cfg, _PROGRAMS[program])
    if not printed:
        _check_targets(config)
    if isinstance(config, TrainConfig) and config.push_to_hub is not None and not printed and is_first():
        try:
            check_push(config.push_to_hub)
        except ConfigError as error:
            raise ConfigError(f"push_to_hub={error}") from error
    if isinstance(config, TrainConfig) and config.trainer.lightning:
        from pipo.config.trainer_options import trainer_options  # imports Lightning

        trainer_options(config)
    if cfg.hydra.mode == RunMode.MULTIRUN:
        return
    for key in ("output_dir", "resume"):
        if cfg.get(key) == "" or (key == "output_dir" and cfg[key] is None):
            raise ConfigError(f"{key} has no value; name a folder, {key}=...")
    if cfg.get("resume") is not None:
        check_run(Path(str(cfg.resume)))
    elif program == "train":
        check_place(Path(str(cfg.output_dir)), "output_dir")


def _check_chosen(cfg: DictConfig) -> None:
    """Refuse keys of an option that is not chosen, which would be half of a node.

    Raises:
        ConfigError: naming the option.
    """
    for group in ("logger", "callbacks"):
        for name, node in (cfg.get(group) or {}).items():
            part = OmegaConf.is_dict(node) and TARGET not in node
            if part and (CONF / group / f"{name}.yaml").is_file():
                raise ConfigError(
                    f"{group}.{name}: {name} is not chosen, so there is nothing to set; add {group}={name}"
                )
    loop = cfg.get("pipo")
    if OmegaConf.is_dict(loop) and loop.get("name") == "none" and "window" in loop:
        raise ConfigError("pipo.name=none: is a name for reports; a run without the loop is pipo=none")


def _check_targets(config: Options) -> None:
    """Look whether what ``_target_`` names is there, unless the package says so itself."""
    shipped = {
        match
        for path in CONF.rglob("*.yaml")
        for match in re.findall(r"_target_: *(\S+)", path.read_text(encoding="utf-8"))
    }
    for key, target in _targets(config, ""):
        if not isinstance(target, str) or target not in shipped:
            target_of(target, key)


def _targets(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Every class that a configuration names, with its key."""
    if isinstance(node, Open):
        yield from _targets(node.node, node.key)
    elif isinstance(node, Options):
        for name in type(node).model_fields:
            yield from _targets(getattr(node, name), "")
    elif isinstance(node, dict):
        if TARGET in node:
            yield key, node[TARGET]
        for name, value in node.items():
            yield from _targets(value, f"{key}.{name}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _targets(value, f"{key}.{number}")


def _said(error: Exception, name: str) -> str:
    """Hydra's paragraphs as one line."""
    if own_error(error) is not None:
        return first_line(error)
    text = f"{error}\n{error.__cause__ or ''}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    options = [line for line in lines if " " not in line and "=" not in line and "^" not in line]
    noise = (
        "to append",
        "config search path",
        "provider=",
        "set the environment",
        "full_key",
        "see https",
        "^",
    )
    said = [line.rstrip(".:") for line in lines if line not in options]
    said = [line for line in said if not line.lower().startswith(noise) and "^" not in line][:2]
    return ": ".join([*said, *([", ".join(options)] if options else [])]) + _meant(text, name)


def _meant(text: str, name: str) -> str:
    """A key or an option that is near the one that Hydra does not find."""
    if option := re.search(r"Could not find '([\w/]+)/(\w+)'", text):
        meant = near(option[2], (path.stem for path in (CONF / option[1]).glob("*.yaml")))
        return f"; did you mean {option[1]}={meant}?" if meant else ""
    missing = re.search(r"Could not override '([\w.@]+)'", text)
    if missing is None:
        return ""
    with hydra_here():
        plain = OmegaConf.to_container(compose(name), resolve=False)
    above = missing[1].rpartition(".")[0]
    if above and OmegaConf.select(OmegaConf.create(plain), above, default="") is None:
        group = above.replace(".", "/")
        if choices := sorted(path.stem for path in (CONF / group).glob("*.yaml")):
            return (
                f"; {above} is null, so take one first: {' or '.join(f'+{group}={each}' for each in choices)}"
            )
    key = near_miss(missing[1], {str(key): value for key, value in plain.items()})  # type: ignore[union-attr]
    if key == missing[1]:
        return f"; what is not there yet is added with +{key}"
    return f"; did you mean {key}?" if key is not None else ""


def _end(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
