"""GRPO and PIPO in plain PyTorch, in one file: the method of the package without the package.

``python examples/pipo_in_one_file.py`` trains the embedded model of 1.2 million parameters on arithmetic.
Policy Improvement Reinforcement Learning, arXiv 2604.00860, algorithm 1. Only the task and the folder of the
model are imported from the package; ``tests/integration/test_one_file.py`` gives both the same rollouts and
holds the weights after every update to each other. Left out are: other objectives, critics and teachers, KL
penalties, several processes, micro-batches, checkpoints, evaluation.

Shapes: N = prompts x group responses, row i answers prompt i // group; P prompt tokens, padded on the left;
R response tokens, padded on the right.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipo.lm.spec import embedded_model
from pipo.tasks.arithmetic import ArithmeticTask


@dataclass(frozen=True)
class Numbers:
    """Every number of a run; each is an option of the command line. Defaults are those of ``train.py``."""

    seed: int = 1
    iterations: int = 60
    prompts: int = 16  # per iteration
    group: int = 8  # G, responses per prompt
    mini_batch: int = 128  # responses per optimiser step
    learning_rate: float = 5e-5
    max_response_tokens: int = 32
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0  # bound on the loss of a bad response that has become likely
    max_grad_norm: float = 1.0
    pipo: int = 1  # 0: GRPO alone
    negative_scale: float = 0.1  # lambda, factor on the feedback after a drop
    window: int = 8  # K, mean rewards that the newest is compared with
    lr_scale: float = 1.0  # alpha_PI over alpha


@dataclass(frozen=True)
class Batch:
    """B_t: everything that is needed to train on it now, and once more in the next iteration."""

    prompt_ids: Tensor  # int64 [N, P]
    prompt_mask: Tensor  # bool [N, P]
    response_ids: Tensor  # int64 [N, R]
    response_mask: Tensor  # bool [N, R]; the token that ends a response is one of its tokens
    old_logprobs: Tensor  # [N, R], under the policy that sampled
    rewards: Tensor  # [N], the verifier's, 0 or 1


# ---------------------------------------------------------------------------- the policy


def logprobs(model: nn.Module, batch: Batch, rows: Tensor) -> Tensor:
    """Logarithm of pi_theta(y_k | x, y_<k) of the response tokens of some rows, [n, R]."""
    ids = torch.cat([batch.prompt_ids[rows], batch.response_ids[rows]], dim=1)
    mask = torch.cat([batch.prompt_mask[rows], batch.response_mask[rows]], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask.long(), position_ids=positions).logits
    # The logits at a token are about the next one.
    predicted = logits[:, batch.prompt_ids.shape[1] - 1 : -1].float().log_softmax(dim=-1)
    return predicted.gather(2, batch.response_ids[rows][:, :, None]).squeeze(2)


class Sampler:
    """Draws problems, samples from the policy, asks the verifier."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers, self.drawn = numbers, 0
        self.tokenizer = AutoTokenizer.from_pretrained(embedded_model("tiny"), padding_side="left")
        self.task = ArithmeticTask(
            seed=0,
            train_problems=4096,
            test_problems=1,
            levels={1: 0.15, 2: 0.25, 3: 0.20, 4: 0.25, 5: 0.15},
        )
        problems = self.task.examples("train")
        generator = torch.Generator().manual_seed(numbers.seed)
        order = torch.randperm(len(problems), generator=generator).tolist()
        self.problems = [problems[i] for i in order]

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> Batch:
        """B_t ~ pi_theta_t."""
        count = self.numbers.prompts
        chosen = [self.problems[(self.drawn + i) % len(self.problems)] for i in range(count)]
        self.drawn += count
        examples = [example for example in chosen for _ in range(self.numbers.group)]
        texts = [self.task.render(example).text for example in examples]
        prompts = self.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        sequences = model.generate(
            **prompts,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.numbers.max_response_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        response_ids = sequences[:, prompts["input_ids"].shape[1] :]
        stops = response_ids == self.tokenizer.eos_token_id
        # Up to the first token that ends the response, and with it.
        response_mask = stops.cumsum(dim=1) - stops.long() == 0
        answers = self.tokenizer.batch_decode(response_ids * response_mask, skip_special_tokens=True)
        rewards = [verdict.score for verdict in self.task.grade(examples, answers)]
        batch = Batch(
            prompt_ids=prompts["input_ids"],
            prompt_mask=prompts["attention_mask"].bool(),
            response_ids=response_ids * response_mask,
            response_mask=response_mask,
            old_logprobs=torch.empty(0),
            rewards=torch.tensor(rewards),
        )
        old = logprobs(model, batch, torch.arange(len(rewards)))  # fixed now, before any weight moves
        return Batch(**{**vars(batch), "old_logprobs": old})


# ---------------------------------------------------------------------------- the mathematics


def advantages(rewards: Tensor, group: int) -> Tensor:
    """GRPO: A_i = (r_i - mean) / (sample std + 1e-6) inside the group; 0 where all rewards are equal. [N]."""
    groups = rewards.view(-1, group)
    centred = groups - groups.mean(dim=1, keepdim=True)
    centred = torch.where((groups == groups[:, :1]).all(dim=1, keepdim=True), 0.0, centred)
    return (centred / (groups.std(dim=1, correction=1, keepdim=True) + 1e-6)).view(-1)


def attribution(advantage: Tensor, group: int) -> Tensor:
    """s_i = G A_i / sum_j |A_j| inside the group, who earned its result; 0 in a group without differences."""
    groups = advantage.view(-1, group)
    total = groups.abs().sum(dim=1, keepdim=True)
    return (group * groups / torch.where(total > 0, total, 1.0)).view(-1)


def feedback(mu: float, history: deque[float]) -> float | None:
    """xi_t = (mu_t - mu_his) / sigma_his, in sample deviations; None where the window does not vary."""
    spread = statistics.stdev(history)
    return None if spread < 1e-8 else (mu - statistics.mean(history)) / spread


def phi(xi: float, negative_scale: float) -> float:
    """The coefficient: xi itself, lambda xi after a drop."""
    return xi if xi >= 0 else negative_scale * xi


def surrogate(nu: Tensor, weight: Tensor, numbers: Numbers) -> Tensor:
    """-min(nu A, clip(nu) A) per token, over the signed products; at most -dual A where A < 0."""
    clipped = nu.clamp(1 - numbers.clip_low, 1 + numbers.clip_high)
    loss = torch.maximum(-nu * weight, -clipped * weight)
    return torch.where(weight < 0, torch.minimum(loss, -numbers.dual_clip * weight), loss)


# ---------------------------------------------------------------------------- the loop


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    weight: Tensor,
    rate: float,
    numbers: Numbers,
) -> None:
    """Train on a batch with a weight for each response, [N]: advantages, or policy improvement rewards."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    for rows in torch.arange(len(weight)).split(numbers.mini_batch):
        mask = batch.response_mask[rows]
        nu = torch.exp(logprobs(model, batch, rows) - batch.old_logprobs[rows])
        loss = surrogate(nu, weight[rows, None] * mask, numbers)
        (torch.where(mask, loss, 0.0).sum() / mask.sum()).backward()  # mean over the mini-batch's tokens
        nn.utils.clip_grad_norm_(model.parameters(), numbers.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()


def train(
    model: nn.Module,
    sample: Callable[[nn.Module], Batch],
    numbers: Numbers,
    after_update: Callable[[int, str], None] = lambda iteration, which: None,
) -> None:
    """Algorithm 1. ``after_update`` is told after each update, ``pipo`` or ``policy``, that it was made."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=numbers.learning_rate, betas=(0.9, 0.999), weight_decay=0.01
    )
    history: deque[float] = deque(maxlen=numbers.window)
    previous: tuple[Batch, Tensor] | None = None
    for t in range(numbers.iterations):
        start = time.perf_counter()
        batch = sample(model)
        mu = batch.rewards.mean().item()
        advantage = advantages(batch.rewards, numbers.group)

        # Verification: did the past updates help? Then reinforce the previous batch, else damp it.
        said = ""
        if numbers.pipo and previous is not None and len(history) == numbers.window:
            xi = feedback(mu, history)
            coefficient = 0.0 if xi is None else phi(xi, numbers.negative_scale)
            old_batch, s = previous
            if coefficient != 0 and s.any():
                rate = numbers.lr_scale * numbers.learning_rate
                update(model, optimizer, old_batch, s * coefficient, rate, numbers)
                after_update(t, "pipo")
                said = f"  feedback {xi:+.2f}  coefficient {coefficient:+.2f}"

        # Exploration: the base update from where verification has left the policy.
        update(model, optimizer, batch, advantage, numbers.learning_rate, numbers)
        after_update(t, "policy")

        history.append(mu)
        previous = (batch, attribution(advantage, numbers.group))
        print(f"{t:4d}  reward {mu:.3f}{said}  {time.perf_counter() - start:.1f} s", flush=True)


def load_model() -> nn.Module:
    """The embedded model; dropout would make the policy that is updated another one, and it has none."""
    return AutoModelForCausalLM.from_pretrained(embedded_model("tiny"), dtype=torch.float32)


def main() -> None:
    """Numbers from the command line."""
    parser = argparse.ArgumentParser(description="GRPO and PIPO in one file")
    for field in fields(Numbers):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    numbers = Numbers(**vars(parser.parse_args()))
    torch.manual_seed(numbers.seed)
    train(load_model(), Sampler(numbers), numbers)


if __name__ == "__main__":
    main()
