"""Log-probabilities of sampled tokens, forward and backward: time, memory and gradients of three ways.

    python bench/logprobs.py [--rounds 5] [--out logprobs.json]

``blockwise`` is what training uses (``pipo.lm.logprobs``). ``cross_entropy`` is torch's on all positions
at once; ``naive`` takes a log-softmax and the entropy of the full matrix. One thread, float32. Extra memory
is the peak of the call less its inputs and their gradients; ``one matrix`` allocates the logits and nothing
else, which shows that the ruler is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench import ruler
from pipo.lm.logprobs import token_logprobs

Score = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of one problem."""

    vocabulary: int
    """V, rows of the output head."""
    width: int
    """Width of the hidden states."""
    tokens: int
    """M, scored positions."""

    @property
    def matrix_gib(self) -> float:
        """The logits of all positions."""
        return self.tokens * self.vocabulary * 4 / 2**30


CASES = (
    Case(vocabulary=151_936, width=256, tokens=419),
    Case(vocabulary=32_768, width=160, tokens=2_560),
)


def blockwise(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    """Ours."""
    return token_logprobs(hidden, weight, tokens, 1.0)


def cross_entropy(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    """The library's, on the same positions."""
    return -F.cross_entropy(F.linear(hidden, weight), tokens, reduction="none")


def naive(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    """With the entropy that many trainers log, which needs the whole distribution."""
    logprobs = F.linear(hidden, weight).log_softmax(dim=1)
    with torch.no_grad():
        (logprobs.exp() * logprobs).sum(dim=1)
    return logprobs.gather(1, tokens[:, None])[:, 0]


WAYS: dict[str, Score] = {"blockwise": blockwise, "cross_entropy": cross_entropy, "naive": naive}


class Problem:
    """Inputs of a case, the same for every way."""

    def __init__(self, case: Case) -> None:
        generator = torch.Generator().manual_seed(0)
        self.hidden = torch.randn(case.tokens, case.width, generator=generator).requires_grad_()
        self.weight = torch.randn(case.vocabulary, case.width, generator=generator)
        self.weight.mul_(case.width**-0.5).requires_grad_()
        self.tokens = torch.randint(case.vocabulary, (case.tokens,), generator=generator)
        self.factor = torch.randn(case.tokens, generator=generator)  # advantages, say

    def solve(self, score: Score) -> None:
        """Forward and backward; leaves the gradients of the inputs."""
        self.hidden.grad = self.weight.grad = None
        (score(self.hidden, self.weight, self.tokens) * self.factor).sum().backward()

    def forward(self, score: Score) -> None:
        """Without gradient, as rollouts are scored."""
        with torch.no_grad():
            score(self.hidden, self.weight, self.tokens)

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Of hidden states and head."""
        assert self.hidden.grad is not None
        assert self.weight.grad is not None
        return self.hidden.grad, self.weight.grad

    @property
    def gradients_gib(self) -> float:
        """Memory of the gradients, which no way can do without."""
        return 4 * (self.hidden.numel() + self.weight.numel()) / 2**30


def relative_difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Largest difference, relative to the largest entry of the tensor that it is found in."""
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, expected, strict=True))


def measure(case: Case, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds, memory and gradients of every way; the ways take turns."""
    problem = Problem(case)
    found: dict[str, dict[str, Any]] = {name: {} for name in WAYS}
    expected: tuple[Tensor, ...] | None = None
    for name in ("cross_entropy", *(name for name in WAYS if name != "cross_entropy")):  # also warms up
        problem.hidden.grad = problem.weight.grad = None
        peak = ruler.extra_memory(lambda name=name: problem.solve(WAYS[name]))
        found[name]["extra_gib"] = peak - problem.gradients_gib
        found[name]["forward_gib"] = ruler.extra_memory(lambda name=name: problem.forward(WAYS[name]))
        gradients = problem.gradients()
        expected = expected or tuple(each.clone() for each in gradients)
        found[name]["gradient_difference"] = relative_difference(gradients, expected)
    del expected
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, score in WAYS.items():
            seconds[name].append(ruler.cpu_seconds(lambda score=score: problem.solve(score)))
    for name, times in seconds.items():
        found[name]["cpu_seconds"] = ruler.Spread.of(times)
        ratios = [own / plain for own, plain in zip(times, seconds["cross_entropy"], strict=True)]
        found[name]["of_cross_entropy"] = ruler.Spread.of(ratios)
    return found


def main() -> None:
    """Measure and print."""
    options = ruler.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    figures = []
    console = Console(width=100)
    for case in CASES:
        known = ruler.extra_memory(lambda case=case: torch.ones(case.tokens, case.vocabulary))
        found = measure(case, options.rounds)
        table = Table(
            title=f"vocabulary {case.vocabulary:,}, width {case.width}, {case.tokens:,} positions; "
            f"{options.rounds} rounds, median (range)"
        )
        for heading in ("", "CPU s", "of plain", "extra GiB", "forward", "gradient diff."):
            table.add_column(heading, justify="right" if heading else "left")
        for name, row in found.items():
            cells = [row["cpu_seconds"].show(2), row["of_cross_entropy"].show(2)]
            memory = [f"{row[key]:.3f}" for key in ("extra_gib", "forward_gib")]
            table.add_row(name, *cells, *memory, f"{row['gradient_difference']:.1e}")
        table.add_row("one matrix", "", "", f"{known:.3f} of {case.matrix_gib:.3f}", "", "")
        console.print(table)
        figures.append({"case": case, "ways": found, "ruler_gib": [known, case.matrix_gib]})
    ruler.write(options.out, {"cases": figures})


if __name__ == "__main__":
    main()
