"""TRL's GRPOTrainer on a workload folder, in an environment of its own (see ``make bench``).

``--profile lean`` is what a careful user sets on a CPU: float32, no gradient checkpointing, the fastest
settings found. ``--profile default`` is what TRL chooses: bfloat16 autocast, gradient checkpointing. Writes
the same stamps as ``bench/stamps.py`` and saves the trained model for scoring. On a GPU every second response
has the reward 1.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def parse() -> argparse.Namespace:
    """The same sizes as our side's overrides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--profile", choices=("lean", "default"), required=True)
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--prompts", type=int, required=True)
    parser.add_argument("--group", type=int, required=True)
    parser.add_argument("--response-tokens", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--pattern", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--micro-batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--straggler", action="store_true")
    parser.add_argument("--save", type=Path, required=True)
    parser.add_argument("--stamps", type=Path, required=True)
    return parser.parse_args()


class TimedTrainer(GRPOTrainer):
    """Adds up the seconds inside ``generate``, the CPU's or, on a GPU, the clock's; changes nothing else."""

    generate_seconds = 0.0

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        clock = time.process_time if self.args.use_cpu else time.perf_counter
        started = clock()
        try:
            return super()._generate_single_turn(*args, **kwargs)
        finally:
            self.generate_seconds += clock() - started


class Stamps(TrainerCallback):
    """Wall and CPU seconds from the end of one step to the end of the next.

    Args:
        responses: sampled per step.
    """

    def __init__(self, responses: int) -> None:
        self.responses = responses
        self.rows: list[dict[str, float]] = []
        self.trainer: TimedTrainer | None = None
        self.began = self.start_cpu = 0.0
        self._last = (0.0, 0.0, 0.0)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """The clock starts after everything is loaded."""
        self.began, self.start_cpu = time.time(), time.process_time()
        self._last = self._now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """One optimiser step is over."""
        now = self._now()
        wall, cpu, generate = (new - old for new, old in zip(now, self._last, strict=True))
        self.rows.append({"wall": wall, "cpu": cpu, "generate": generate})
        self._last = now

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        """What the step sampled; logged just after its end."""
        if "reward" in logs:
            lengths = logs["completions/mean_length"] * self.responses
            zero = logs["frac_reward_zero_std"]
            self.rows[-1] |= {"tokens": lengths, "reward": logs["reward"], "zero_variance": zero}

    def _now(self) -> tuple[float, float, float]:
        assert self.trainer is not None
        return time.perf_counter(), time.process_time(), self.trainer.generate_seconds


class Hold(LogitsProcessor):
    """Keep the first row from ending."""

    def __init__(self, stop: int) -> None:
        self.stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """No probability for the end of the first row."""
        scores[0, self.stop] = torch.finfo(scores.dtype).min
        return scores


def configuration(options: argparse.Namespace) -> GRPOConfig:
    """One optimiser step per batch, as on our side."""
    lean = options.profile == "lean"
    # Left out, TRL chooses bfloat16 autocast and gradient checkpointing itself.
    chosen: dict[str, Any] = {"bf16": False, "gradient_checkpointing": False} if lean else {}
    return GRPOConfig(
        output_dir=str(options.save),
        use_cpu=options.device == "cpu",
        per_device_train_batch_size=options.micro_batch,
        gradient_accumulation_steps=options.prompts * options.group // options.micro_batch,
        num_generations=options.group,
        max_completion_length=options.response_tokens,
        max_steps=options.iterations,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        adam_beta2=0.99,
        max_grad_norm=1.0,
        temperature=1.0,
        loss_type="grpo",
        beta=0.0,
        seed=options.seed,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        **chosen,
    )


def main() -> None:
    """Train, stamp, save."""
    options = parse()
    torch.set_num_threads(options.threads)
    lines = (options.workload / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    pattern = re.compile(options.pattern)

    def reward(prompts: list[str], completions: list[str], answer: list[str], **_: Any) -> list[float]:
        if options.device == "cuda":  # random weights solve nothing, and equal rewards have no gradient
            return [float(place % 2) for place in range(len(completions))]
        found = (pattern.search(completion) for completion in completions)
        return [float(m is not None and m.group(1) == a) for m, a in zip(found, answer, strict=True)]

    tokenizer = AutoTokenizer.from_pretrained(options.workload)
    model = AutoModelForCausalLM.from_pretrained(options.workload, dtype=torch.float32)
    if options.straggler:
        model.generate = functools.partial(model.generate, logits_processor=[Hold(tokenizer.eos_token_id)])
    stamps = Stamps(options.prompts * options.group)
    trainer = TimedTrainer(
        model=model,
        args=configuration(options),
        reward_funcs=reward,
        train_dataset=Dataset.from_list([json.loads(line) for line in lines]),
        processing_class=tokenizer,
        callbacks=[stamps],
    )
    stamps.trainer = trainer
    trainer.train()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (resident,) = re.findall(r"VmHWM:\s+(\d+) kB", status)  # not inherited from the parent, unlike ru_maxrss
    peak = int(resident) / 2**20 if options.device == "cpu" else torch.cuda.max_memory_allocated() / 2**30
    options.save.mkdir(parents=True, exist_ok=True)
    written = {
        "peak_gib": peak,
        "began": stamps.began,
        "start_cpu": stamps.start_cpu,
        "rows": stamps.rows,
    }
    options.stamps.write_text(json.dumps(written), encoding="utf-8")
    if options.straggler:
        del model.generate
    model.save_pretrained(options.save)
    tokenizer.save_pretrained(options.save)


if __name__ == "__main__":
    main()
