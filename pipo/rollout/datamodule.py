"""Prompts of an iteration: a pure function of (seed, iteration, rank, number of ranks).

One Lightning epoch is the whole run, one batch is one iteration. No sampler state has to be saved:
resuming needs only the number of iterations that were handed out. An algorithm that draws the prompts by
weights of its own keeps these in the checkpoint itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipo.distributed.collectives import world
from pipo.distributed.seeds import Purpose, derive_seed
from pipo.errors import TaskError
from pipo.records.problems import Example
from pipo.records.rollouts import IterationPrompts, PromptBatch, TokenIds


class IterationDataset(Dataset[IterationPrompts]):
    """Item i holds the prompts of iteration i on this rank.

    Prompts are shuffled anew every epoch over the problems, or stay in the task's order; no prompt repeats
    within an epoch, and the remainder that does not fill an iteration is left out of that epoch
    (``drop_last``; :attr:`left_out`).
    Refill rounds draw from all problems at random and do not use up the epoch.

    The prompts of an iteration are dealt to the ranks in turn, so that the first mini-batch of all ranks
    together holds the first prompts, and so on: the same mini-batches whatever the number of ranks.

    Args:
        examples: the training problems.
        prompt_ids: their tokenised prompts.
        prompts_per_iteration: over all ranks.
        iterations: length of the run.
        seed: the run's seed.
        shuffle: False keeps the order of the task in every epoch.
        repeat_after: so many iterations are all that there are, and their prompts come again and again; None
            for no such thing.
        prompt_weights: uids of the problems -> what their chances to be drawn are proportional to, asked anew
            in every iteration; None for epochs. Without replacement inside an iteration. With
            ``repeat_after`` nothing is drawn.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        prompt_ids: Sequence[TokenIds],
        *,
        prompts_per_iteration: int,
        iterations: int,
        seed: int,
        shuffle: bool,
        repeat_after: int | None,
        prompt_weights: Callable[[Sequence[str]], Tensor] | None = None,
    ) -> None:
        if len(examples) < prompts_per_iteration:
            raise TaskError(
                f"the task has {len(examples)} training problems, but an iteration takes "
                f"{prompts_per_iteration} (algo.prompts); lower recipe.responses or add problems"
            )
        self.examples, self.prompt_ids = examples, prompt_ids
        self.prompts_per_iteration, self.iterations, self.seed = prompts_per_iteration, iterations, seed
        self.shuffle, self.repeat_after = shuffle, repeat_after
        self.prompt_weights = prompt_weights if repeat_after is None else None
        self.rank, self.world_size = 0, 1

    def share_between(self, rank: int, world_size: int) -> None:
        """Give this rank its part of every iteration."""
        if self.prompts_per_iteration % world_size:
            raise TaskError(
                f"algo.prompts={self.prompts_per_iteration} cannot be shared evenly by {world_size} processes"
            )
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.iterations

    @property
    def left_out(self) -> int:
        """Problems that every epoch leaves out: they do not fill an iteration. Shuffled, others each time."""
        return 0 if self.prompt_weights is not None else len(self.examples) % self.prompts_per_iteration

    @cached_property
    def identity(self) -> str:
        """Sixteen digits that differ as soon as a problem, its answer or a token of its prompt does."""
        digest = hashlib.sha256()
        for example, ids in zip(self.examples, self.prompt_ids, strict=True):
            digest.update(repr((example.uid, example.answer, tuple(ids))).encode(errors="backslashreplace"))
        return digest.hexdigest()[:16]

    def __getitem__(self, iteration: int) -> IterationPrompts:
        if self.repeat_after is not None:
            iteration %= self.repeat_after
        return IterationPrompts(first=self._first(iteration), refill=partial(self._refill, iteration))

    def _refill(self, iteration: int, number: int) -> PromptBatch:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, Purpose.REFILL, iteration, number))
        return self._share(torch.randperm(len(self.examples), generator=generator).tolist(), 0)

    @cached_property
    def _uids(self) -> list[str]:
        return [example.uid for example in self.examples]

    def _first(self, iteration: int) -> PromptBatch:
        if self.prompt_weights is not None:
            seed = derive_seed(self.seed, Purpose.PRIORITY, iteration)
            generator = torch.Generator().manual_seed(seed)
            weights, wanted = self.prompt_weights(self._uids), self.prompts_per_iteration
            return self._share(torch.multinomial(weights, wanted, generator=generator).tolist(), 0)
        per_epoch = len(self.examples) // self.prompts_per_iteration
        epoch, position = divmod(iteration, per_epoch)
        if not self.shuffle:
            return self._share(list(range(len(self.examples))), position)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, Purpose.SHUFFLE, epoch))
        order = torch.randperm(len(self.examples), generator=generator).tolist()
        return self._share(order, position)

    def _share(self, order: list[int], position: int) -> PromptBatch:
        """This rank's part of the ``position``-th stretch of an order."""
        start = position * self.prompts_per_iteration
        chosen = order[start : start + self.prompts_per_iteration][self.rank :: self.world_size]
        return PromptBatch(
            examples=tuple(self.examples[i] for i in chosen),
            prompt_ids=tuple(self.prompt_ids[i] for i in chosen),
        )


class IterationLoader(DataLoader[IterationPrompts]):
    """Hands out iterations in order and remembers, for checkpoints, how many it has handed out."""

    def __init__(self, dataset: IterationDataset) -> None:
        # Its own generator: making an iterator draws a number, which must not come from the global one.
        super().__init__(dataset, batch_size=None, generator=torch.Generator().manual_seed(0))
        self.handed_out = 0
        self.prompts = dataset.identity

    def __iter__(self) -> Iterator[IterationPrompts]:  # type: ignore[override]
        for iteration in range(self.handed_out, len(self.dataset)):  # type: ignore[arg-type]
            self.handed_out = iteration + 1
            yield self.dataset[iteration]

    def state_dict(self) -> dict[str, Any]:
        """Called by Lightning when it saves a checkpoint."""
        return {"handed_out": self.handed_out, "prompts": self.prompts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Called by Lightning when it resumes.

        Raises:
            TaskError: the prompts are not those of the run that is resumed.
        """
        before = state.get("prompts", "not recorded")
        if before != self.prompts:
            raise TaskError(
                f"resume: the training problems were {before} when the run began and are {self.prompts} now "
                "(hash): its data, its template, the tokenizer or the model's chat template has changed; put "
                "it back, or start another run"
            )
        self.handed_out = int(state["handed_out"])


class PromptDataModule(pl.LightningDataModule):
    """Training prompts of a task.

    Args:
        dataset: the prompts of every iteration.
    """

    def __init__(self, dataset: IterationDataset) -> None:
        super().__init__()
        self.dataset = dataset

    def train_dataloader(self) -> IterationLoader:
        """One batch per iteration; by now the process group exists."""
        self.dataset.share_between(*world())
        return IterationLoader(self.dataset)

    def transfer_batch_to_device(
        self, batch: IterationPrompts, device: torch.device, dataloader_idx: int
    ) -> IterationPrompts:
        """Prompts are plain token ids; the engine moves what it needs."""
        return batch
