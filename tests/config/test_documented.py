"""README.md and docs/ name what exists: files, headings, lines, programs, options and keys."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pipo.__main__ import PROGRAMS
from pipo.analysis.study.plan import known_studies
from pipo.config.command_line import expand_model, expand_open, expand_task
from tests import documented
from tests.conftest import ROOT
from tests.documented import Written

COMMANDS = list({command.text: command for command in documented.commands()}.values())
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory) -> Path:
    """The folder ``my/`` of docs/extending.md."""
    return documented.write_extensions(tmp_path_factory.mktemp("own"))


@pytest.mark.parametrize("link", documented.links(), ids=str)
def test_every_link_leads_somewhere(link: Written):
    if "://" in link.text:
        parts = urlsplit(link.text)
        assert parts.scheme == "https"
        assert "." in parts.netloc
        return
    path, _, fragment = link.text.partition("#")
    page = ROOT / link.page
    target = (page.parent / path).resolve() if path else page
    assert target.is_relative_to(ROOT), "leads out of the repository"
    assert target.exists(), "there is no such file"
    if fragment and target.suffix == ".md":
        assert fragment in documented.anchors(target), (
            f"its headings are {sorted(documented.anchors(target))}"
        )


def test_every_file_in_docs_is_linked_from_the_readme_or_another_page():
    linked = {
        ((ROOT / link.page).parent / link.text.partition("#")[0]).resolve()
        for link in documented.links()
        if "://" not in link.text
    }
    unlinked = [page for page in documented.PAGES[1:] if page not in linked]
    assert [str(page.relative_to(ROOT)) for page in unlinked] == []


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_command_exists_and_its_keys_do(command: Written, compose_config, own_folder):
    first, *rest = documented.words(command.text)
    if first == "make":
        assert {word for word in rest if "=" not in word} <= TARGETS
    elif first in documented.OTHERS:
        for extra in re.findall(r"\.\[([\w,-]+)\]", command.text):
            assert set(extra.split(",")) <= EXTRAS
        named = [word for word in rest if word.startswith(("conf/", "requirements/", "docs/", "launch/"))]
        assert [word for word in named if not (ROOT / word).exists()] == []
    elif first == "sbatch" or first.startswith("launch/"):
        script, *arguments = [
            word for word in (first, *rest) if word != "sbatch" and not word.startswith("-")
        ]
        assert (ROOT / script).is_file()
        check_overrides(compose_config, own_folder, "train.py", [word for word in arguments if "=" in word])
    elif first == "pipo":
        check_python(compose_config, own_folder, ["-m", "pipo", *rest])
    else:
        assert first == "python", "a command begins with python, make or another known program"
        check_python(compose_config, own_folder, rest)


def check_python(compose_config, own_folder: Path, arguments: list[str]) -> None:
    """``python X.py ...`` or ``python -m pipo NAME ...``."""
    program, *rest = arguments
    if program in ("train.py", "eval.py"):
        if rest[:1] == ["compare"]:
            assert len(rest) == 3
            return
        if rest[:1] == ["grade"]:
            program, *rest = ["grade.py", *rest[1:]]  # its configuration is called so
        check_overrides(compose_config, own_folder, program, rest)
        return
    if program == "-m":
        if rest[0] == "tests.gpu.first_look":
            assert {word for word in rest if word.startswith("--")} <= {"--only", "--device"}
            return
        package, name, *rest = rest
        assert package == "pipo", "the package is the one door to its programs"
        module = PROGRAMS[name][0]
        if module.endswith(".py"):
            check_python(compose_config, own_folder, [module, *rest])
            return
        source = ROOT / module.replace(".", "/")
        if source.is_dir():
            assert (source / "__main__.py").is_file()
        else:
            source = source.with_suffix(".py")
            assert '__name__ == "__main__"' in source.read_text()
        if name == "study" and not rest[0].isupper():
            assert rest[0] in known_studies() or rest[0].endswith(".yaml")
    else:
        source = ROOT / program
        assert source.is_file()
    given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    assert given <= documented.flags(source)


def check_overrides(compose_config, own_folder: Path, program: str, arguments: list[str]) -> None:
    """Compose what the command line of a program would, every point of a sweep."""
    overrides, sweep = [], False
    words = iter(arguments)
    for word in words:
        if word in ("-m", "--multirun"):
            sweep = True
        elif word == "--config-dir":
            overrides.append(f"hydra.searchpath=[file://{own_folder / next(words)}]")
        elif word == "--cfg":
            assert next(words) in ("job", "hydra", "all")
        elif word == "--resolve":
            continue
        else:
            assert not word.startswith("-"), f"{word} is none of the options that this test knows"
            group, _, option = word.partition("=")
            # Any option of a group; a model may be a path as well.
            if option == documented.PLACEHOLDER and group != "model" and (ROOT / "conf" / group).is_dir():
                continue
            overrides.append(word)
    overrides = without_launcher(overrides)
    expand_model(overrides)
    if program == "eval.py":
        expand_task(overrides)
    expand_open(overrides)
    for point in points(overrides) if sweep else [overrides]:
        OmegaConf.to_container(compose_config(*point, name=program.removesuffix(".py")), resolve=True)


def without_launcher(overrides: list[str]) -> list[str]:
    """The overrides but those of a launcher, which needs a plugin; its keys are looked up in its file."""
    name = next((word.partition("=")[2] for word in overrides if word.startswith("hydra/launcher=")), None)
    if name is None:
        return overrides
    known = yaml.safe_load((ROOT / f"conf/hydra/launcher/{name}.yaml").read_text())
    keys = [word.partition("=")[0] for word in overrides if word.startswith("hydra.launcher.")]
    assert {key.removeprefix("hydra.launcher.") for key in keys} <= set(known)
    return [word for word in overrides if not word.startswith(("hydra/launcher=", "hydra.launcher."))]


def points(overrides: list[str]) -> list[list[str]]:
    """Enough points of a sweep to meet each of its values once."""
    values = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [word]
        for word, one in zip(overrides, OverridesParser.create().parse_overrides(overrides), strict=True)
    ]
    return [
        [choices[n % len(choices)] for choices in values] for n in range(max(map(len, values), default=1))
    ]


def test_every_algorithm_and_every_module_of_its_mathematics_has_a_line():
    page = (ROOT / "docs/algorithms.md").read_text()
    for option in (ROOT / "conf/algo").glob("*.yaml"):
        assert f"| `{option.stem}` |" in page, option.stem
    shared = {"__init__", "group", "masks"}  # what others use and no equation names
    rooms = ROOT / "pipo/modules/objectives", ROOT / "pipo/functional"
    for source in (file for room in rooms for file in room.glob("*.py")):
        linked = f"(../{source.relative_to(ROOT)})" in page
        assert linked or source.stem in shared, source.name
