"""Seconds of an iteration by phase, from operations, bytes and assumed shares of peak rates."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch

from pipo.config.tree import TrainConfig
from pipo.evaluation.runner import batch_size
from pipo.lm.logprobs import row_blocks
from pipo.plan.balance import scoring_work, step_work
from pipo.plan.lengths import Lengths
from pipo.plan.memory import Held, checkpoint_bytes, kept_by_engine, sent_to_engine
from pipo.plan.options import Assumptions, Gpu
from pipo.plan.passes import PassPeaks
from pipo.plan.sizes import Shape, Sizes
from pipo.rollout.vllm import VllmConfig

# Bytes per logit that pass through memory on a GPU (pipo.lm.logprobs): made, cast, and read three times and
# written by softmax, forward; made again for the backward pass, all but the last block; and that pass, in
# which softmax reads them three times and writes, and two products read.
LOGIT_SCORED, LOGIT_AGAIN, LOGIT_BACK = 24, 2, 12
# Bytes per weight of the head for each block of an update: the float32 sum that its product joins.
HEAD_GRADIENT = 8
# Bytes per weight of AdamW's step: weight, gradient and two moments read, three of them written.
ADAMW = 28
# Bytes per weight of a look-back (pipo.lm.weights_copy): weights and their copy change places twice, by way
# of a third, and the copy is made anew; and of a copy in main memory, what crosses over.
LOOKED_BACK, CROSSED = 56, 20


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """A phase of an iteration."""

    name: str
    """What happens."""
    seconds: float
    """Per iteration; of what is not done in each, its share."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """Seconds of updates, and what of them a perfect machine would do without."""

    work: float = 0.0
    """Products of layers, attention and head, each once but for layers whose activations are made again."""
    step: float = 0.0
    """AdamW."""
    padding: float = 0.0
    """Attention on padding."""
    imbalance: float = 0.0
    """Processes wait for the one that has most tokens."""
    idle: float = 0.0
    """Processes have no row left in a pass."""
    head: float = 0.0
    """Logits through memory, made a second time, and sums of the head's gradient."""
    exchange: float = 0.0
    """Weights and gradients between GPUs, where nothing is computed meanwhile."""

    def __add__(self, other: Update) -> Update:
        """Both."""
        return Update(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Update)})

    @property
    def seconds(self) -> float:
        """Of everything."""
        return sum(getattr(self, each.name) for each in fields(Update))

    @property
    def waste(self) -> dict[str, float]:
        """Name -> share of the whole."""
        names = {
            "padding": self.padding,
            "imbalance": self.imbalance,
            "idle ranks": self.idle,
            "head": self.head,
            "exchange": self.exchange,
        }
        return {name: seconds / self.seconds for name, seconds in names.items()}


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
    on_gpu: bool = True
    """Whether blocks of the head have a GPU's size."""

    @property
    def rate(self) -> float:
        """Operations per second in passes."""
        tflops = self.gpu.float32_tflops if self.sizes.products == 4 else self.gpu.bfloat16_tflops
        return tflops * 1e12 * self.assume.train_share

    @property
    def stream(self) -> float:
        """Bytes per second from and to memory, in passes over large tensors."""
        return self.gpu.memory_gb_s * 1e9 * self.assume.stream_share

    @property
    def link(self) -> float:
        """Bytes per second to other GPUs."""
        slowest = (
            min(self.gpu.link_gb_s, self.assume.node_gb_s) if self.sizes.nodes > 1 else self.gpu.link_gb_s
        )
        return slowest * 1e9 * self.assume.link_share

    @property
    def sharded(self) -> bool:
        """Weights are gathered for every pass."""
        return self.sizes.sharded

    @property
    def head(self) -> int:
        """Weights of the output head."""
        return self.shape.vocabulary * self.shape.width

    @property
    def layers(self) -> int:
        """Weights of all layers, which multiply every token."""
        return self.held.policy.parameters - self.head * (1 if self.shape.tied else 2)

    @property
    def attention(self) -> float:
        """Operations of attention for a token, over half of a row."""
        row = self.sizes.prompt + self.sizes.response
        return 2 * self.shape.layers * self.shape.heads * self.shape.head_dim * row

    def passes(self, tokens: float, padded: float = 1.0) -> float:
        """Operations of one forward pass through the layers."""
        return tokens * (2 * self.layers + self.attention * padded)

    # ------------------------------------------------------------------ scoring and updates

    def scoring(self) -> float:
        """A forward pass over the batch, until all processes are done."""
        sizes, work = self.sizes, scoring_work(self.sizes, self.assume, waits=self.sharded)
        sampled = sizes.rows * sizes.response
        products = (self.passes(work.tokens, work.padded) + 2 * self.head * sampled) / self.rate
        logits = LOGIT_SCORED * self.shape.vocabulary * sampled / self.stream
        busy = (products + logits) * work.slowest
        return busy + work.passes * self._exposed(busy / work.passes, self.held.policy, gathers=1, sums=False)

    def look_back(self) -> float:
        """A forward pass with the weights of before, which change places with those of now."""
        own = self.held.policy.trained / (self.sizes.processes if self.sharded else 1)
        if self.sizes.look_back == "cpu":
            return self.scoring() + CROSSED * own / (self.assume.host_gb_s * 1e9)
        return self.scoring() + LOOKED_BACK * own / self.stream

    def update(
        self, share: float, *, checkpointing: bool, teacher: bool = False, critic: bool = False
    ) -> Update:
        """Passes and steps on a share of the batch."""
        sizes, model = self.sizes, self.held.policy
        if critic:
            assert self.held.critic is not None
            model = self.held.critic
        work = step_work(sizes, self.assume, waits=self.sharded, share=share)
        steps = math.ceil(sizes.rows / sizes.step_rows)
        # Of a step in a process. Forward pass, the gradients of what goes in and of weights that are trained,
        # and once more forward where activations were not kept.
        again = 1 if checkpointing else 0
        each = (3 + again) * self.attention
        frozen = self.layers - min(self.layers, model.trained) if sizes.lora else 0
        each += 2 * (self.layers - frozen) * (3 + again) + 2 * frozen * (2 + again)
        products = work.tokens * (each + teacher * (2 * self.layers + self.attention)) / self.rate
        padding = (work.padded - 1) * work.tokens * self.attention * (3 + again + teacher) / self.rate
        head = 0.0
        if not critic:
            sampled = share * sizes.step_rows * sizes.response
            needed, head = self._head(sampled, work.passes, teacher=teacher)
            products += needed
        busy = products + padding + head
        waits = busy * (work.slowest - 1)
        idle = min(waits, busy * work.idle)
        exposed = self._step_exchange((busy + waits) / work.passes, model, round(work.passes))
        own = model.trained / (sizes.processes if self.sharded else 1)
        each_step = Update(
            work=products,
            step=ADAMW * own / self.stream,
            padding=padding,
            imbalance=waits - idle,
            idle=idle,
            head=head,
            exchange=exposed,
        )
        return sum([each_step] * steps, Update())

    def _head(self, sampled: float, passes: float, *, teacher: bool) -> tuple[float, float]:
        """Seconds of the head's products in a step, and of what is lost beside them."""
        block = row_blocks(1, self.shape.vocabulary, torch.device("cuda" if self.on_gpu else "cpu"))[0].stop
        blocks = max(1.0, sampled / passes / block)
        again = 1 - 1 / blocks  # the last block of each pass is kept
        trained = not self.sizes.lora
        product = 2 * self.head * sampled / self.rate
        per_logit = LOGIT_SCORED + LOGIT_AGAIN * again + LOGIT_BACK
        lost = per_logit * self.shape.vocabulary * sampled * (1 + teacher) / self.stream
        lost += again * product * (1 + teacher)
        if trained and blocks > 1:
            lost += HEAD_GRADIENT * self.head * blocks * passes / self.stream
        return product * (2 + trained + teacher), lost

    # ------------------------------------------------------------------ between GPUs

    @property
    def _others(self) -> float:
        return 1 - 1 / self.sizes.processes

    def _step_exchange(self, busy: float, model: PassPeaks, passes: int) -> float:
        """Seconds of an optimiser step in which processes only send.

        Args:
            busy: seconds of each pass.
            model: which is trained.
            passes: of the step.
        """
        if not self.sharded:
            summed = 2 * 4 * model.trained * self._others / self.link * self.held.exchanges
            return max(0.0, summed - 2 / 3 * busy)  # beside the last backward pass
        summed = passes if model.exchanges_each_pass else 1
        each = self._exposed(busy, model, gathers=2, sums=False)
        last = self._exposed(busy, model, gathers=2, sums=True)
        return (passes - summed) * each + summed * last

    def _exposed(self, busy: float, model: PassPeaks, *, gathers: int, sums: bool) -> float:
        """Seconds of a pass over shards in which nothing is computed.

        What is in no layer (embeddings, head) is gathered before a pass begins and summed when it has ended;
        so is the first layer, and the last that gets its gradient. All others travel beside the products.

        Args:
            busy: seconds of the pass.
            model: whose pass it is.
            gathers: how often weights of layers are gathered.
            sums: whether gradients are summed.
        """
        if not self.sharded:
            return 0.0
        assert self.held.sharding is not None
        reduced = getattr(torch, self.held.sharding.reduce_dtype).itemsize
        around = model.parameters - self.layers
        gathered, layers = self.sizes.products, self.layers
        summed = (0 if self.sizes.lora else reduced) * sums
        outside = around * (gathered + summed) + layers / self.shape.layers * (gathered + summed)
        beside = layers * (gathers * gathered + summed)
        sent = self._others / self.link
        return outside * sent + max(0.0, beside * sent - busy)

    def sync(self) -> float:
        """Weights, or adapters alone, to the engine, which slept."""
        if not isinstance(self.sizes.engine, VllmConfig):
            return 0.0
        gather = sent_to_engine(self.held, self.sizes) * self._others / self.link * self.sharded
        waited = 2 * kept_by_engine(self.held, self.sizes) / (self.assume.host_gb_s * 1e9)
        return self.assume.cycle_s + gather + waited

    # ------------------------------------------------------------------ sampling

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
        bandwidth = self.gpu.memory_gb_s * 1e9 * self.assume.memory_share
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
            busy = max(read / bandwidth, products / self.rate)
            seconds += lengths.any_alive(step, together) * (fixed + busy)
        return waves * seconds


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """Seconds of an iteration."""

    phases: list[Seconds]
    """In their order."""
    updates: Update
    """All updates together."""


def iteration(clock: Clock, config: TrainConfig) -> Iteration:
    """Every phase of an iteration in its order."""
    sizes, assume = clock.sizes, clock.assume
    checkpointing, trained = config.model.gradient_checkpointing, assume.trained_share
    together = sizes.rows * sizes.processes
    found = [
        Seconds(name="sampling", seconds=sizes.rounds * clock.sampling(sizes.rows, together)),
        Seconds(name="grading", seconds=sizes.rounds * sizes.rows * assume.grade_s),
        Seconds(name="scoring", seconds=sizes.scorings * clock.scoring() if sizes.scorings else 0.0),
    ]
    if sizes.look_back is not None:
        found.append(Seconds(name="look-back", seconds=clock.look_back()))
    updates = {}
    if sizes.retrospective:
        share = trained * sizes.retrospective
        updates["retrospective update"] = clock.update(share, checkpointing=checkpointing)
    updates["update"] = clock.update(trained, teacher=sizes.distils, checkpointing=checkpointing)
    if sizes.critic:
        updates["critic's update"] = clock.update(1.0, critic=True, checkpointing=checkpointing)
    found += [Seconds(name=name, seconds=update.seconds) for name, update in updates.items()]
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
    return Iteration(phases=[each for each in found if each.seconds], updates=sum(updates.values(), Update()))


def held_out(clock: Clock, config: TrainConfig, samples: int) -> float:
    """Seconds to score the held-out problems once; all processes have some."""
    problems, ranks = config.evaluation.problems or clock.assume.held_out, clock.sizes.processes
    size = min(problems, batch_size(problems, config.evaluation.prompts_per_batch, ranks))
    rounds = math.ceil(math.ceil(problems / size) / ranks)
    rows = size * samples
    return rounds * (clock.sampling(rows, rows * ranks) + rows * clock.assume.grade_s)
