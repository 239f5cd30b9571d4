"""What comes after the last iteration costs nothing that was trained, and no product costs another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lightning.pytorch as pl
import pytest
from transformers import AutoModelForCausalLM, GenerationConfig

from pipo.callbacks.evaluation import HeldOutEvaluation
from pipo.config.cli import exit_code
from pipo.training import train
from tests.conftest import ROOT

SMALL = [
    "recipe.responses=16",
    "recipe.mini_batch=16",
    "evaluation.problems=2",
    "evaluation.samples=1",
    "evaluation.ks=[1]",
    "iterations=1",
]
PRODUCTS = {
    "model/config.json",
    "model/README.md",
    "summary.json",
    "curves.png",
    "report.html",
    "held_out/after.json",
}


class Obstacle(pl.Callback):
    """Puts something of the other kind where a product is about to be written: a folder, or a file."""

    def __init__(self, place: str, kind: str) -> None:
        self.place, self.kind = Path(place), kind

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.kind == "folder":
            self.place.mkdir(parents=True)
        else:
            self.place.write_text("in the way")


class Broken(pl.Callback):
    """A callback of somebody's own with a mistake in it."""

    def on_train_end(self, trainer, pl_module) -> None:
        raise KeyError("not mine")


def obstacle(folder: Path, place: str, kind: str) -> list[str]:
    node = f"{__name__}.Obstacle"
    return [f"+callbacks.obstacle={{_target_:{node},place:'{folder / place}',kind:{kind}}}"]


def there(folder: Path) -> set[str]:
    return {name for name in PRODUCTS if (folder / name).is_file()}


@pytest.mark.parametrize(
    ("product", "place", "kind"),
    [
        ("model/", ".model.partial", "file"),
        ("held_out/after.json", "held_out/.after.json.partial", "folder"),
        ("summary.json", ".summary.json.partial", "folder"),
        # A page like the report, made in the same way.
        pytest.param("curves.png", "curves.png", "folder", marks=pytest.mark.slow),
        ("report.html", ".report.html.partial", "folder"),
    ],
)
def test_a_product_that_cannot_be_written_costs_itself_and_resuming_makes_it(
    compose_config, tmp_path, capsys, monkeypatch, product, place, kind
):
    folder = tmp_path / "run"
    cfg = compose_config(*SMALL, f"output_dir={folder}", *obstacle(folder, place, kind))
    code, _ = exit_code(lambda: train(cfg, []))
    message = capsys.readouterr().err.splitlines()[-1]
    assert code == 1
    assert message.startswith(f"error: {folder}: all 1 iterations are made and saved, but {product} cannot")
    assert f"python train.py resume={folder} makes what is missing" in message
    lost = {name for name in PRODUCTS if name.startswith(product)}
    assert there(folder) == PRODUCTS - lost

    blocked = folder / place
    shutil.rmtree(blocked) if blocked.is_dir() else blocked.unlink()
    if product != "held_out/after.json":  # what has been scored stays scored
        monkeypatch.setattr(HeldOutEvaluation, "_measure", None)
    before = {name: (folder / name).stat().st_mtime_ns for name in ("model/config.json",) if name not in lost}
    code, _ = exit_code(lambda: train(compose_config(f"resume={folder}"), [f"resume={folder}"]))
    assert code == 0
    assert there(folder) == PRODUCTS
    assert "missing" not in json.loads((folder / "summary.json").read_text())
    if product in ("curves.png", "report.html"):
        assert before == {"model/config.json": (folder / "model/config.json").stat().st_mtime_ns}
    code, _ = exit_code(lambda: train(compose_config(f"resume={folder}"), [f"resume={folder}"]))
    assert code == 2
    assert "its 1 iterations are finished; iterations= above that goes on" in capsys.readouterr().err


def test_a_mistake_in_somebodys_own_callback_comes_after_the_results(compose_config, tmp_path):
    folder = tmp_path / "run"
    broken = f"+callbacks.broken={{_target_:{__name__}.Broken}}"
    with pytest.raises(KeyError, match="not mine"):
        train(compose_config(*SMALL, f"output_dir={folder}", broken), [])
    assert there(folder) == PRODUCTS


def test_a_model_whose_generation_configuration_contradicts_itself_is_exported_without_what_does(
    compose_config, tmp_path, caplog
):
    model, folder = tmp_path / "model", tmp_path / "run"
    shutil.copytree(ROOT / "pipo/lm/assets/tiny", model)
    # Sampling-only and beam-only fields, and one that transformers refuses to read at all.
    odd = {"eos_token_id": [1, 7], "pad_token_id": 0, "do_sample": False, "temperature": 0.7, "top_p": 0.9}
    odd |= {"length_penalty": 2.0, "num_return_sequences": 3, "max_new_tokens": 9}
    (model / "generation_config.json").write_text(json.dumps(odd))
    overrides = [*SMALL, "model=huggingface", f"model.path={model}", f"output_dir={folder}"]
    code, _ = exit_code(lambda: train(compose_config(*overrides), []))
    assert code == 0
    said = [r.getMessage() for r in caplog.records if "contradicts itself" in r.getMessage()]
    (line,) = said
    for field in ("temperature=0.7", "top_p=0.9", "length_penalty=2.0", "num_return_sequences=3"):
        assert field in line
    kept = GenerationConfig.from_pretrained(folder / "model")
    assert (kept.eos_token_id, kept.pad_token_id, kept.max_new_tokens) == ([1, 7], 0, 9)
    assert (kept.temperature, kept.num_return_sequences) == (None, None)
    AutoModelForCausalLM.from_pretrained(folder / "model")
