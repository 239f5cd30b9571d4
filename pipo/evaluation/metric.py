"""pass@k of every problem over all ranks, as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from pipo.evaluation.statistics import pass_at_k


class PassAtK(Metric):
    """pass@k of every problem, and the means of further quantities, over all ranks.

    ``compute`` returns one row per problem instead of the mean, because intervals and means per level are
    functions of the rows. Rows are sorted by index; of rows with the same index (a sampler that pads the
    last share repeats problems) the first is kept.

    Args:
        ks: the k to compute.
        means: names of further quantities, of which each update brings the mean over a problem's samples.
    """

    full_state_update = False
    index: list[Tensor] | Tensor
    """int64, number of each problem."""
    samples: list[Tensor] | Tensor
    """n, responses to each problem."""
    solved: list[Tensor] | Tensor
    """c, right responses to each problem."""
    means: list[Tensor] | Tensor
    """[problems, quantities], means of the further quantities."""

    def __init__(self, ks: Sequence[int], means: Sequence[str]) -> None:
        super().__init__()
        self.ks = tuple(ks)
        self.mean_names = tuple(means)
        for name in ("index", "samples", "solved", "means"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, index: Tensor, samples: Tensor, solved: Tensor, means: Tensor) -> None:
        """Add problems. A rank without any must still call this, with empty tensors, or the gather fails.

        Args:
            index: int64 [P], position of the problem in the evaluated list.
            samples: int64 [P], n.
            solved: int64 [P], c.
            means: float64 [P, number of names].
        """
        expected = (len(index), len(self.mean_names))
        if tuple(means.shape) != expected:
            raise ValueError(f"means: expected shape {expected}, got {tuple(means.shape)}")
        for name, tensor in (("index", index), ("samples", samples), ("solved", solved), ("means", means)):
            state = getattr(self, name)
            assert isinstance(state, list)
            state.append(tensor.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Columns with one entry per problem of any rank.

        Returns:
            ``index`` and ``samples`` (int64), ``pass@k`` for each k and the named means (float64).
        """
        index, rows = np.unique(dim_zero_cat(self.index).cpu().numpy(), return_index=True)
        samples = dim_zero_cat(self.samples).cpu().numpy()[rows]
        solved = dim_zero_cat(self.solved).cpu().numpy()[rows]
        means = dim_zero_cat(self.means).cpu()[torch.from_numpy(rows)]
        table = {"index": torch.from_numpy(index), "samples": torch.from_numpy(samples)}
        for k in self.ks:
            table[f"pass@{k}"] = torch.from_numpy(pass_at_k(samples, solved, k))
        table.update(zip(self.mean_names, means.unbind(dim=1), strict=True))
        return table
