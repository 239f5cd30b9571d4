"""The trained model as an ordinary Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from transformers import PreTrainedTokenizerBase

from pipo.modules.distributed import world
from pipo.modules.policy_module import PolicyModule
from pipo.modules.sharding import full_tensors


class ModelExport(pl.Callback):
    """Saves model and tokenizer when training ends, also when it was stopped early.

    Args:
        folder: where ``AutoModelForCausalLM.from_pretrained`` will find them.
        tokenizer: goes beside the weights.
    """

    def __init__(self, *, folder: str, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.folder, self.tokenizer = Path(folder), tokenizer

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the folder; every rank sends its shards, the first puts them together and writes."""
        assert isinstance(pl_module, PolicyModule)
        leader, model, whole = world()[0] == 0, pl_module.policy.model, {}
        for name, tensor in full_tensors(model):
            if leader:
                whole[name] = tensor.cpu()
        if leader:
            model.save_pretrained(self.folder, state_dict=whole)
            self.tokenizer.save_pretrained(self.folder)
