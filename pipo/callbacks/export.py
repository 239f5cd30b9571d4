"""Export the trained model as an ordinary Hugging Face folder; trained adapters beside it by themselves."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import lightning.pytorch as pl
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipo.distributed.collectives import all_gather
from pipo.distributed.processes import is_first
from pipo.errors import ConfigError, ModelError, reason
from pipo.lm.adapters import write_adapter
from pipo.lm.generation import without_contradictions
from pipo.lm.sharding import full_tensors
from pipo.lm.spec import merged_policy
from pipo.modules.hooks import learner
from pipo.runs.run_summary import ADAPTER_FOLDER, MODEL_FOLDER, missing_products

log = logging.getLogger(__name__)

# What writing a model raises: the disk, transformers about what it does not save, torch about weights.
_REFUSED = (OSError, ValueError, RuntimeError, SafetensorError, ModelError)


class ModelExport(pl.Callback):
    """Saves model and tokenizer when training ends, also when it was stopped early.

    Adapters are written in PEFT's format to ``adapter/`` beside the folder, which gets the model with the
    adapters merged. Of several processes the first reads the model again for that, and no other sends it.

    The folder gets its name when it is whole. A failure is kept in :attr:`problem`, so that it costs the
    model alone and none of the results that come after.

    Args:
        folder: where ``AutoModelForCausalLM.from_pretrained`` will find them, inside the run folder.
        tokenizer: goes beside the weights.

    Attributes:
        problem: why the model could not be written; None when it was.
    """

    def __init__(self, *, folder: str, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.folder, self.tokenizer = Path(folder), tokenizer
        self.problem: str | None = None
        self._first = 0

    @property
    def _partial(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.partial")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what stands beside the weights: what cannot be saved shows before anything is trained.

        Raises:
            ConfigError: the configuration or the tokenizer is refused, or the folder; on every rank.
        """
        module = learner(pl_module)
        self._first = trainer.fit_loop.total_batch_idx + 1
        model = module.policy.model
        if model.can_generate() and model.generation_config is not None:
            model.generation_config, left_out = without_contradictions(model.generation_config)
            if left_out and is_first():
                log.warning(
                    "model.path=%s: its generation configuration contradicts itself; what is trained will be "
                    "saved without %s",
                    model.name_or_path,
                    ", ".join(left_out),
                )
        problem = self._rehearsed(model) if is_first() else None
        if (found := all_gather(problem)[0]) is not None:
            raise ConfigError(found)

    def _rehearsed(self, model: PreTrainedModel) -> str | None:
        try:
            self._write_around(model)
        except OSError as error:
            return f"{self.folder}: cannot be written ({reason(error)})"
        except (ValueError, RuntimeError, TypeError) as error:
            return f"model.path={model.name_or_path}: what is trained could not be saved ({reason(error)})"
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)
        return None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the folder; every rank sends its shards, the first puts them together and writes."""
        module = learner(pl_module)
        leader, policy, whole = is_first(), module.policy, {}
        if self._is_there(trainer.fit_loop.total_batch_idx + 1):
            return
        for name, tensor in full_tensors(policy):
            if leader:
                whole[name.removeprefix("model.")] = tensor.cpu()
        if not leader:
            return
        try:
            if policy.lora is None:
                self._write(policy.model, whole)
            else:
                self._write(self._merged(policy.model, whole), None)
        except _REFUSED as error:
            self.problem = reason(error)
            log.info("%s: cannot be written", self.folder, exc_info=error)
            shutil.rmtree(self._partial, ignore_errors=True)

    def _is_there(self, done: int) -> bool:
        """Whether an earlier program has written the model after as many iterations; alike on every rank."""
        if done != self._first:
            return False
        missing = missing_products(self.folder.parent, done) if is_first() else None
        return all_gather(missing is not None and f"{MODEL_FOLDER}/" not in missing)[0]

    def _write(self, model: PreTrainedModel, weights: dict[str, Tensor] | None) -> None:
        self._write_around(model)
        model.save_pretrained(self._partial, state_dict=weights)
        _give_name(self._partial, self.folder)

    def _merged(self, model: PreTrainedModel, adapters: dict[str, Tensor]) -> PreTrainedModel:
        """Write the adapters, and merge what was written into the model that they are on."""
        folder = self.folder.with_name(ADAPTER_FOLDER)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_adapter(model, adapters, partial)
        _give_name(partial, folder)
        merged = merged_policy(str(model.name_or_path), folder).model
        merged.generation_config = model.generation_config
        return merged

    def _write_around(self, model: PreTrainedModel) -> None:
        """Configuration and tokenizer, into an empty folder."""
        if self._partial.exists():
            shutil.rmtree(self._partial)
        self._partial.mkdir(parents=True)
        model.config.save_pretrained(self._partial)
        if model.can_generate() and model.generation_config is not None:
            model.generation_config.save_pretrained(self._partial)
        self.tokenizer.save_pretrained(self._partial)


def _give_name(partial: Path, folder: Path) -> None:
    """Put a whole folder where an older one may be."""
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
