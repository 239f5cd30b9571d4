"""Model card of a run: ``README.md`` and the curves in ``model/``, which makes the folder complete."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import metadata_load, try_to_load_from_cache
from omegaconf import DictConfig, OmegaConf

from pipo.analysis.report.content import Report, make_report
from pipo.analysis.report.run_files import RunFiles, read_folder
from pipo.runs.files import replace_text
from pipo.runs.places import CONFIG_FILE, command, own_configuration
from pipo.runs.run_summary import CARD_FILE, CURVES_FILE, MODEL_FOLDER

# Stands for the repository in a card that was not pushed.
NO_REPOSITORY = "org/name"
_TEMPLATE = "card.md"
_LICENSE = ("license", "license_name", "license_link")
# Of the packages that a run notes, those that what came out depends on.
_VERSIONS = ("pipo", "torch", "transformers", "lightning")


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that was trained."""

    name: str
    """For people."""
    repository: str | None = None
    """On the hub; None for a model that is not known to be there."""
    license: Mapping[str, Any] = field(default_factory=dict)
    """Of the card's license keys those that the model's own card has."""


def write_card(folder: Path) -> None:
    """Write the card of a run into its exported model; without one there is nothing to describe.

    Args:
        folder: the run folder; the run may be unfinished.

    Raises:
        ConfigError: naming a file of the run that is damaged.
    """
    if not (folder / MODEL_FOLDER / "config.json").is_file():
        return
    curves = folder / CURVES_FILE
    if curves.is_file():
        shutil.copyfile(curves, folder / MODEL_FOLDER / CURVES_FILE)
    files = read_folder(folder)
    replace_text(folder / CARD_FILE, render(files, files.config.get("push_to_hub") or NO_REPOSITORY))


def name_repository(folder: Path, repository: str) -> None:
    """Let the card of a run name the repository that it goes to; one that was edited stays as it is."""
    card = folder / CARD_FILE
    files = read_folder(folder)
    if not card.exists():
        write_card(folder)
    if card.read_text(encoding="utf-8") in (render(files, NO_REPOSITORY), render(files, _told(files))):
        replace_text(card, render(files, repository))


def _told(files: RunFiles) -> str:
    return files.config.get("push_to_hub") or NO_REPOSITORY


def render(files: RunFiles, repository: str) -> str:
    """The text of the card.

    Args:
        files: of the run.
        repository: where the model can be loaded from.
    """
    report, base = make_report(files), _base(files.config)
    versions = files.starts[-1]["versions"] if files.starts else {}
    text = _template().render(
        metadata=yaml.safe_dump(_metadata(files.config, base), sort_keys=False, allow_unicode=True).strip(),
        name=report.title,
        outcome=report.outcome,
        unfinished=report.unfinished,
        finished=files.summary is not None,
        version=versions.get("pipo") or importlib.metadata.version("pipo"),
        repo=repository,
        facts=_facts(files, base),
        settings=_settings(files.config),
        rows=report.rows,
        basis=report.basis,
        curves=CURVES_FILE if (files.folder / MODEL_FOLDER / CURVES_FILE).exists() else None,
        command=_command(files, report),
        resumed=len(files.starts) > 1,
        versions=", ".join(f"{name} {versions[name]}" for name in _VERSIONS if versions.get(name)),
        license=_license_sentence(base),
    )
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@cache
def _template() -> jinja2.Template:
    """Compiled once, however many cards a program writes."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(_TEMPLATE)


def _metadata(config: DictConfig, base: Base) -> dict[str, Any]:
    """What the hub reads."""
    known = {"base_model": base.repository} if base.repository else {}
    tags = ["reinforcement-learning", "pipo", config.algo.name, config.task.name]
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **known,
        **base.license,
        "tags": tags,
    }


def _loop(files: RunFiles) -> str:
    """Which form of the method, and whether it ever did anything."""
    name = str(files.config.pipo.name)
    if files.run is not None:
        _, applied = files.run.series("pipo/applied")
        if len(applied) and not applied.any():
            return f"{name}, which never made a retrospective update"
    return name


def _facts(files: RunFiles, base: Base) -> dict[str, str]:
    config = files.config
    rank = OmegaConf.select(config, "model.lora.rank")
    facts = {
        "base model": base.name,
        "task": config.task.name,
        "algorithm": config.algo.name,
        "PIPO": _loop(files),
        "weights trained": "all" if rank is None else f"LoRA of rank {rank}, merged",
        "iterations": files.done,
        "responses per iteration": f"{config.recipe.responses}, {config.algo.group_size} to a prompt",
        "responses per optimiser step": config.recipe.mini_batch,
        "learning rate": config.recipe.learning_rate,
        "response tokens at most": config.task.max_response_tokens,
        "seed": config.seed,
    }
    return {name: str(value).replace("|", "\\|") for name, value in facts.items()}


def _settings(config: DictConfig) -> str:
    nodes = {name: OmegaConf.to_container(config[name], resolve=True) for name in ("algo", "pipo", "recipe")}
    return yaml.safe_dump(nodes, sort_keys=False).strip()


def _command(files: RunFiles, report: Report) -> str:
    """The run as one command, without its folder."""
    words = [word for word in report.overrides if not word.startswith("iterations=")]
    changed = len(words) < len(report.overrides) or len(files.starts) > 1
    own = own_configuration(files.starts[0]["command"]) if files.starts else []
    return command("train.py", *own, *words, *([f"iterations={files.config.iterations}"] if changed else []))


def _base(config: DictConfig) -> Base:
    """What is known of the base model without asking the hub."""
    path = config.model.path
    if not isinstance(path, str):
        embedded = "embedded" in str(path.get("_target_"))
        license = {"license": "apache-2.0"} if embedded else {}
        return Base(
            name=f"{config.model.name}{' (embedded in the package)' if embedded else ''}", license=license
        )
    folder = Path(path).expanduser()
    if (folder / CONFIG_FILE).is_file():
        folder /= MODEL_FOLDER
    if folder.exists():
        card = folder / "README.md"
        known = _known(card)
        repository = known.get("base_model")
        return Base(
            name=config.model.name if folder.name == MODEL_FOLDER else folder.name,
            repository=repository if isinstance(repository, str) else None,
            license={name: known[name] for name in _LICENSE if name in known},
        )
    card = try_to_load_from_cache(path, "README.md") if "/" in path else None
    known = _known(Path(card)) if isinstance(card, str) else {}
    return Base(
        name=f"[{path}](https://huggingface.co/{path})",
        repository=path,
        license={name: known[name] for name in _LICENSE if name in known},
    )


def _known(card: Path) -> dict[str, Any]:
    """The metadata of a card; whatever cannot be read is unknown."""
    try:
        return metadata_load(card) or {} if card.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}


def _license_sentence(base: Base) -> str:
    if not base.license:
        return f"That of the base model, {base.name}; it did not lie beside the weights that were trained."
    said = base.license.get("license_name") or base.license.get("license")
    return f"{said}, as the base model, {base.name}."
