"""Critic (value model): a backbone of its own and a linear value head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipo.lm.adapters import keep_trained
from pipo.lm.attention import packed_hidden
from pipo.lm.packing import PackedRows
from pipo.lm.policy import Policy, autocast


class Critic(nn.Module):
    """Values of the states in which the policy sampled its tokens.

    Args:
        backbone: a copy of the policy; its output head is not used. It is trained as a whole, or where it has
            adapters these alone, and computes in the dtype in which the policy does.
    """

    def __init__(self, backbone: Policy) -> None:
        super().__init__()
        self.model = backbone.backbone
        self.compute_dtype = backbone.compute_dtype
        width = backbone.head.weight.shape[1]
        # Zero: the first advantages are the returns, and every process starts with the same head.
        self.head = nn.Linear(width, 1, bias=True, dtype=torch.float32)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if backbone.lora is not None:
            keep_trained(self)

    def forward(self, rows: PackedRows) -> Tensor:
        """Value before each of the M sampled tokens, float32 [M]."""
        # The state in which a token is chosen ends with the token before it.
        with autocast(self.head.weight.device, self.compute_dtype):
            hidden = packed_hidden(self.model, rows)
        # A product of its own rather than a view of the layer's output: what follows the output of a sharded
        # model must find the hook on it. And in float32, whatever the backbone computes in.
        weight, bias = self.head.weight[0].float(), self.head.bias.float()
        return hidden.float() @ weight + bias
