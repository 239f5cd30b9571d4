"""Seconds of an iteration by phase, from operations, bytes and assumed shares of peak rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipo.config.tree import TrainConfig
from pipo.lm.logprobs import row_blocks
from pipo.plan.lengths import Lengths
from pipo.plan.memory import Held, checkpoint_bytes
from pipo.plan.options import Assumptions, Gpu
from pipo.plan.sizes import Shape, Sizes
from pipo.rollout.vllm import VllmConfig

# Bytes per logit that pass through memory: made, cast, and read or written by each operation of a block
# (pipo.lm.logprobs), in a forward pass, and in an update, which makes most of them twice.
LOGIT_SCORED, LOGIT_TRAINED = 40, 86
# Bytes per weight of the head for each block of an update: its product, and the float32 sum that it joins.
HEAD_GRADIENT = 12
# Bytes per weight of AdamW's step: weight, gradient and two moments read, three of them written.
ADAMW = 28


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """A phase of an iteration."""

    name: str
    """What happens."""
    seconds: float
    """Per iteration; of what is not done in each, its share."""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Rates of a machine, and the run that they are applied to."""

    held: Held
    """Models."""
    sizes: Sizes
    """Rows and tokens."""
    shape: Shape
    """Of the model."""
    gpu: Gpu
    """Peak rates."""
    assume: Assumptions
    """Shares of them."""

    @property
    def rate(self) -> float:
        """Operations per second in passes."""
        tflops = self.gpu.float32_tflops if self.sizes.products == 4 else self.gpu.bfloat16_tflops
        return tflops * 1e12 * self.assume.train_share

    @property
    def bandwidth(self) -> float:
        """Bytes per second from and to memory."""
        return self.gpu.memory_gb_s * 1e9 * self.assume.memory_share

    @property
    def link(self) -> float:
        """Bytes per second to other GPUs."""
        slowest = (
            min(self.gpu.link_gb_s, self.assume.node_gb_s) if self.sizes.nodes > 1 else self.gpu.link_gb_s
        )
        return slowest * 1e9 * self.assume.link_share

    @property
    def head(self) -> int:
        """Weights of the output head."""
        return self.shape.vocabulary * self.shape.width

    @property
    def layers(self) -> int:
        """Weights of all layers, which multiply every token."""
        return self.held.policy.parameters - self.head * (1 if self.shape.tied else 2)

    def passes(self, tokens: float) -> float:
        """Operations of one forward pass through the layers, attention over half of a row included."""
        row = self.sizes.prompt + self.sizes.response
        attention = 2 * self.shape.layers * self.shape.heads * self.shape.head_dim * row
        return tokens * (2 * self.layers + attention)

    # ------------------------------------------------------------------ phases

    def scoring(self) -> float:
        """A forward pass over the batch."""
        sizes = self.sizes
        sampled = sizes.rows * sizes.response
        products = (self.passes(sizes.tokens) + 2 * self.head * sampled) / self.rate
        logits = LOGIT_SCORED * self.shape.vocabulary * sampled / self.bandwidth
        passes = math.ceil(sizes.tokens / sizes.budget)
        return max((products + logits) * self.assume.slowest, self._gathers(passes))

    def update(self, share: float, *, head: bool = True, teacher: bool = False, checkpointing: bool) -> float:
        """Passes and steps on a share of the batch."""
        sizes = self.sizes
        tokens = share * sizes.tokens
        sampled = share * sizes.rows * sizes.response
        forwards = 4 if checkpointing else 3  # the backward pass takes two, and layers that were not kept one
        operations = (forwards + teacher) * self.passes(tokens)
        seconds = 0.0
        if head:
            # Blocks are computed again for the backward pass; with a teacher its logits as well.
            operations += (4 + 2 * teacher) * 2 * self.head * sampled
            blocks = sampled / row_blocks(1, self.shape.vocabulary)[0].stop
            logits = LOGIT_TRAINED * self.shape.vocabulary * sampled * (1 + teacher)
            seconds = (logits + HEAD_GRADIENT * self.head * blocks) / self.bandwidth
        seconds = (seconds + operations / self.rate) * self.assume.slowest
        steps = math.ceil(sizes.rows / sizes.step_rows)
        sharded = self.held.sharding is not None
        passes = steps * max(1, math.ceil(share * sizes.micro_batches))
        exchange = 2 * self._gathers(passes) + steps * self._exchange()
        own = self.held.policy.parameters / (sizes.processes if sharded else 1)
        return max(seconds, exchange) + steps * ADAMW * own / self.bandwidth

    def _gathers(self, passes: int) -> float:
        """Seconds to gather the weights once in each of so many passes."""
        if self.held.sharding is None:
            return 0.0
        return passes * self.held.policy.parameters * self.sizes.products * self._others / self.link

    def _exchange(self) -> float:
        """Seconds to sum a gradient over the processes."""
        once = 4 * self.held.policy.parameters * self._others / self.link
        return once if self.held.sharding is not None else 2 * once * self.held.exchanges

    @property
    def _others(self) -> float:
        return 1 - 1 / self.sizes.processes

    def sampling(self, rows: int, together: int) -> float:
        """Responses of one process, until the longest of all processes is finished.

        Args:
            rows: of this process.
            together: of all processes.
        """
        sizes, shape, engine = self.sizes, self.shape, self.sizes.engine
        if isinstance(engine, VllmConfig):
            split, number, at_a_time = (
                engine.tensor_parallel_size,
                4 if engine.dtype == "float32" else 2,
                engine.max_num_seqs,
            )
            fixed = self.assume.step_s
        else:
            split, number, at_a_time, fixed = (
                1,
                sizes.products,
                engine.max_rows,
                self.assume.layer_s * shape.layers,
            )
        rows, waves = rows * split, max(1, rows * split / at_a_time)
        rows = min(rows, at_a_time)
        weights = (self.layers + self.head) * number / split
        token = shape.cache_bytes(number) / split
        lengths = Lengths.of(sizes.response, sizes.longest_response)
        prompts = rows / sizes.group * sizes.prompt
        seconds = self.passes(prompts) / split / self.rate
        for step in range(sizes.longest_response):
            live = rows * lengths.alive(step)
            read = weights + live * (sizes.prompt + step) * token
            products = live * 2 * (self.layers + self.head) / split
            busy = max(read / self.bandwidth, products / self.rate)
            seconds += lengths.any_alive(step, together) * (fixed + busy)
        return waves * seconds

    def sync(self) -> float:
        """Weights to the engine, which slept."""
        if not isinstance(self.sizes.engine, VllmConfig):
            return 0.0
        number = 4 if self.sizes.engine.dtype == "float32" else 2
        gather = self.held.policy.parameters * number * self._others / self.link
        return self.assume.cycle_s + (gather if self.held.sharding is not None else 0.0)


def iteration(clock: Clock, config: TrainConfig) -> list[Seconds]:
    """Every phase of an iteration in its order."""
    sizes, assume = clock.sizes, clock.assume
    checkpointing, trained = config.model.gradient_checkpointing, assume.trained_share
    together = sizes.rows * sizes.processes
    found = [
        Seconds(name="sampling", seconds=sizes.rounds * clock.sampling(sizes.rows, together)),
        Seconds(name="grading", seconds=sizes.rounds * sizes.rows * assume.grade_s),
        Seconds(name="scoring", seconds=sizes.scorings * clock.scoring()),
    ]
    if sizes.look_back is not None:
        found.append(Seconds(name="look-back", seconds=clock.scoring()))
    if sizes.retrospective:
        share = trained * sizes.retrospective
        found.append(
            Seconds(name="retrospective update", seconds=clock.update(share, checkpointing=checkpointing))
        )
    found.append(
        Seconds(
            name="update",
            seconds=clock.update(trained, teacher=sizes.distils, checkpointing=checkpointing),
        )
    )
    if sizes.critic:
        found.append(
            Seconds(
                name="critic's update", seconds=clock.update(1.0, head=False, checkpointing=checkpointing)
            )
        )
    curve = held_out(clock, config, config.curve.samples) / config.curve.every
    if config.probe.prompts:
        rows = config.probe.prompts * config.probe.samples
        curve += clock.sampling(math.ceil(rows / sizes.processes), rows)
    written = checkpoint_bytes(clock.held, sizes) / (assume.disk_gb_s * 1e9) / config.checkpoint.every
    found += [
        Seconds(name="sync", seconds=clock.sync()),
        Seconds(name="held-out", seconds=curve),
        Seconds(name="checkpoints", seconds=written),
    ]
    return [each for each in found if each.seconds]


def held_out(clock: Clock, config: TrainConfig, samples: int) -> float:
    """Seconds to score the held-out problems once; batches are dealt to the processes."""
    size, problems = config.evaluation.prompts_per_batch, config.evaluation.problems or clock.assume.held_out
    batches = math.ceil(problems / size)
    rounds = math.ceil(batches / clock.sizes.processes)
    rows = min(size, problems) * samples
    return rounds * (clock.sampling(rows, rows) + rows * clock.assume.grade_s)
