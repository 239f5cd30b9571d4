"""The trained model as an ordinary Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only
from transformers import PreTrainedTokenizerBase

from pipo.modules.policy_module import PolicyModule


class ModelExport(pl.Callback):
    """Saves model and tokenizer when training ends, also when it was stopped early.

    Args:
        folder: where ``AutoModelForCausalLM.from_pretrained`` will find them.
        tokenizer: goes beside the weights.
    """

    def __init__(self, *, folder: str, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.folder, self.tokenizer = Path(folder), tokenizer

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the folder."""
        assert isinstance(pl_module, PolicyModule)
        pl_module.policy.model.save_pretrained(self.folder)
        self.tokenizer.save_pretrained(self.folder)
