"""Workload folders: a model with the prompts that every side of a comparison trains and is scored on.

    python bench/workload.py tiny --out FOLDER [--vocabulary 32768]

A workload is a Hugging Face folder that also holds ``prompts.jsonl`` and ``eval_prompts.jsonl``, with lines
of ``{"prompt": "37*85=", "answer": "3145"}``. ``tiny`` makes one of the embedded model and its arithmetic
task, ``wide`` one of Qwen3-0.6B's shape, random weights and the same task, ``smollm2`` one of SmolLM2-135M
(``make smollm2``) and sums of two-digit numbers; any folder with these files is one already.
``--vocabulary`` pads embedding and head to so many rows. Those that are added are never sampled, so a small
model pays for a real vocabulary and learns as before.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bench.ruler import ROOT
from pipo.lm.packing import pack
from pipo.lm.policy import Policy, load_policy, load_tokenizer, stop_token_ids
from pipo.lm.smollm2 import ensure_smollm2
from pipo.lm.spec import embedded_model
from pipo.records.problems import Split
from pipo.records.rollouts import TokenIds
from pipo.rollout.local import LocalEngine, LocalEngineConfig
from pipo.rollout.options import SamplingParams
from pipo.tasks.base import Task
from tests.gpu.wide_model import half_a_billion, write_model

FILES: dict[Split, str] = {"train": "prompts.jsonl", "test": "eval_prompts.jsonl"}

# For the row that pads a vocabulary: prompts x samples whose hidden states it must score low, how short it is
# to be, and the probability with which a token of other prompts' responses may be one of the added ones.
FIT_PROMPTS, FIT_SAMPLES, FIT_RIDGE, LARGEST_SHARE = 512, 4, 0.01, 1e-5


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One line of a workload."""

    prompt: str
    """The text that the model continues."""
    answer: str
    """What must follow the last ``#`` of a response."""

    def solved_by(self, response: str) -> bool:
        """Whether the text after the last ``#`` is the answer."""
        _, mark, tail = response.rpartition("#")
        return bool(mark) and tail == self.answer


def problems(folder: Path, split: Split) -> tuple[Problem, ...]:
    """All lines of one of a workload's two files."""
    lines = (folder / FILES[split]).read_text(encoding="utf-8").splitlines()
    return tuple(Problem(**json.loads(line)) for line in lines)


def prepare(source: str, out: Path, vocabulary: int | None = None) -> Path:
    """A workload folder, made where there is none.

    Args:
        source: ``tiny``, ``wide``, ``smollm2``, or a folder that is a workload.
        out: where a new folder is written; unused when the source serves as it is.
        vocabulary: rows of embedding and head; None for as many as the model has.

    Returns:
        The folder to use: ``out``, or the source.
    """
    if source in ("tiny", "wide"):
        _copy(Path(embedded_model("tiny")), out)
        if source == "wide":
            write_model(half_a_billion(), out)
        task: Task = instantiate(OmegaConf.load(ROOT / "conf" / "task" / "arithmetic.yaml").source)
        for split, name in FILES.items():
            _write(out / name, ((task.render(e).text, e.answer) for e in task.examples(split)))
    elif source == "smollm2":
        _small_sums(out)
    else:
        folder = _checked(Path(source))
        if vocabulary is None:
            return folder
        _copy(folder, out)
    if vocabulary is not None:
        pad_vocabulary(out, vocabulary)
    return out


def _checked(folder: Path) -> Path:
    missing = [name for name in ("config.json", *FILES.values()) if not (folder / name).is_file()]
    if missing:
        raise SystemExit(
            f"{folder}: no workload folder, {', '.join(missing)} missing "
            "(or name it 'tiny', 'wide' or 'smollm2')"
        )
    return folder


def _copy(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file():
            shutil.copyfile(file, out / file.name)


def _write(path: Path, problems: Iterable[tuple[str, str]]) -> None:
    lines = [json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in problems]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _small_sums(out: Path) -> None:
    """SmolLM2 with sums after two examples; a plain text model, because the peer uses no chat template."""
    _copy(ensure_smollm2(os.environ.get("PIPO_CACHE", "~/.cache/pipo")), out)
    (out / "chat_template.jinja").unlink()
    sums = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    random.Random(0).shuffle(sums)
    problems = [(f"23 + 45 = 68\n61 + 17 = 78\n{a} + {b} =", str(a + b)) for a, b in sums]
    _write(out / FILES["train"], problems[512:])
    _write(out / FILES["test"], problems[:512])


def pad_vocabulary(folder: Path, size: int) -> None:
    """Give the model of a workload ``size`` rows of embedding and head; those added are never sampled.

    The head has no bias, so a row cannot be switched off. The added ones all point away from every hidden
    state at which the model samples, and are checked on the held-out prompts, which had no part in that.
    """
    tokenizer = load_tokenizer(str(folder))
    policy = load_policy(str(folder), "float32")
    stops = stop_token_ids(str(folder), tokenizer)
    rows = policy.head.weight.shape[0]
    if size <= rows:
        raise SystemExit(f"--vocabulary must exceed the model's {rows} rows, got {size}")
    train, test = (
        sampling_states(policy, tokenizer, problems(folder, split)[:FIT_PROMPTS], stops)
        for split in ("train", "test")
    )
    head = policy.head.weight.detach()
    row = unlikely_row(train, head)
    share = added_share(test, head, row, copies=size - rows)
    if share > LARGEST_SHARE:
        raise SystemExit(
            f"{folder}: the vocabulary cannot be padded, on held-out prompts a token would be one of the "
            f"{size - rows} added ones with probability {share:.2g} (at most {LARGEST_SHARE:g} is allowed)"
        )
    policy.model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        policy.head.weight[rows:] = row  # with tied weights these are the embedding's rows, too
    policy.model.save_pretrained(folder)


@torch.no_grad()
def sampling_states(
    policy: Policy, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Problem], stops: frozenset[int]
) -> Tensor:
    """Final hidden states at which the model draws its responses to the prompts, [M, width]."""
    ids: list[TokenIds] = [tuple(tokenizer(problem.prompt)["input_ids"]) for problem in asked]
    engine = LocalEngine(policy, LocalEngineConfig(max_rows=512, compact_below=0.75))
    sampling = SamplingParams(
        temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, max_response_tokens=40, stop_token_ids=stops
    )
    drawn = engine.generate(ids, FIT_SAMPLES, sampling, seed=0)
    rows = list(range(len(drawn.response_ids)))
    packed = pack(ids, FIT_SAMPLES, drawn.response_ids, drawn.lengths, drawn.sampled, rows)
    return policy.response_hidden(packed)


def unlikely_row(hidden: Tensor, weight: Tensor) -> Tensor:
    """A row for the head that no hidden state draws: it lowers the largest of its log-probabilities.

    Args:
        hidden: [M, width], states that must not draw it.
        weight: [V, width], the head without it.

    Returns:
        [width].
    """
    normaliser = (hidden @ weight.T).logsumexp(dim=1)
    row = torch.zeros(hidden.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([row], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        # A smooth maximum, so it is the few worst states that count; least squares would leave them behind.
        value = (hidden @ row - normaliser).logsumexp(dim=0) + FIT_RIDGE / 2 * row @ row
        value.backward()
        return value

    optimizer.step(loss)
    return row.detach()


def added_share(hidden: Tensor, weight: Tensor, row: Tensor, *, copies: int) -> float:
    """Mean probability of drawing one of ``copies`` rows that were added to the head."""
    normaliser = (hidden @ weight.T).logsumexp(dim=1)
    added = hidden @ row + math.log(copies)
    return (added - torch.logaddexp(added, normaliser)).exp().mean().item()


def main() -> None:
    """Make one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="'tiny', 'wide', 'smollm2' or a workload folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--vocabulary", type=int, help="rows of embedding and head")
    options = parser.parse_args()
    print(prepare(options.source, options.out, options.vocabulary))


if __name__ == "__main__":
    main()
