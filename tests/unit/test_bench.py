import json
import math

import pytest
import torch

from bench import ruler
from bench.cpu_timers import CpuTimers
from bench.floor import PASS_TOKENS, buckets
from bench.lean import LeanQwen3
from bench.logprobs import relative_difference
from bench.pipo_cost import overhead, per_trained_row, summarise
from bench.scaling import fit
from bench.workload import Problem, added_share, prepare, problems, unlikely_row
from pipo.lm.policy import load_policy
from pipo.lm.spec import embedded_model
from tests import toy
from tests.policies import packed


def test_spread():
    spread = ruler.Spread.of([3.0, 1.0, 2.0, 10.0])
    assert spread == ruler.Spread(median=2.5, low=1.0, high=10.0, count=4)
    assert spread.show(1) == "2.5 (1.0-10.0)"


def test_figures_are_written_with_their_spreads(tmp_path):
    ruler.write(tmp_path / "deep" / "figures.json", {"a": ruler.Spread.of([1.0])})
    written = json.loads((tmp_path / "deep" / "figures.json").read_text())
    assert written == {"a": {"median": 1.0, "low": 1.0, "high": 1.0, "count": 1}}


def test_memory_of_a_known_allocation():
    # 64 Mi float32 are 256 MiB; the rest of the process may move by a few.
    assert ruler.extra_memory(lambda: torch.ones(64 * 2**20)) == pytest.approx(0.25, abs=0.02)


def test_the_exponent_of_a_power_law():
    sizes = [2.0, 4.0, 8.0, 16.0]
    exact = fit(sizes, [0.3 * size**1.5 for size in sizes])
    assert exact.exponent == pytest.approx(1.5, abs=1e-12)
    assert exact.error == pytest.approx(0.0, abs=1e-7)
    # Logs x = -1, 0, 1 and y = 0, 1, 0: slope 0, residuals -1/3, 2/3, -1/3, so s^2 = (6/9) / (3 - 2) and the
    # error is sqrt(s^2 / sum x^2) = sqrt(1/3).
    bent = fit([math.exp(x) for x in (-1, 0, 1)], [math.exp(y) for y in (0, 1, 0)])
    assert bent.exponent == pytest.approx(0.0, abs=1e-12)
    assert bent.error == pytest.approx(math.sqrt(1 / 3), abs=1e-12)


def test_pipo_cost_figures():
    row = {
        "time/generate": 0.1,
        "time/retrospective": 0.3,
        "time/update": 0.2,
        "time/iteration": 0.61,
        "pipo/trained_rows": 0.75,
        "policy/trained_rows": 0.5,
        "pipo/applied": 1.0,
    }
    assert overhead(row) == pytest.approx(0.01)
    assert per_trained_row(row, row) == pytest.approx(1.0)  # 0.3 / 0.75 over 0.2 / 0.5
    baseline = {"time/generate": 0.1, "time/update": 0.2, "time/iteration": 0.305, "policy/trained_rows": 0.5}
    early = {**row, "pipo/applied": 0.0, "time/iteration": 100.0}
    figures = summarise(
        [{"pipo=none": [{**baseline, "time/iteration": 100.0}, baseline], "pipo=default": [early, row]}]
    )
    assert figures["pipo=default"]["of the baseline"].median == pytest.approx(2.0)
    assert figures["pipo=default"]["per trained row"].median == pytest.approx(1.0)
    assert figures["pipo=none"]["overhead"].median == pytest.approx(0.005)


def test_buckets_pad_least():
    # Together 8 rows of 30 are 240 tokens; apart 4 of 5 and 4 of 30 are 140 and one more pass.
    assert PASS_TOKENS < 100
    assert buckets([5] * 4 + [30] * 4) == [slice(4, 8), slice(0, 4)]
    assert buckets([29] * 4 + [30] * 4) == [slice(0, 8)]
    assert buckets([]) == []


def test_the_lean_model_is_the_model():
    folder = embedded_model("tiny")
    lean, policy = LeanQwen3(folder), load_policy(folder, "float32")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 20, (6, 14), generator=generator)
    rows = [(row[:5], row[5 : 9 + i], 0.1 * (i + 1)) for i, row in enumerate(ids.tolist())]
    lean.accumulate(rows)
    starts = torch.tensor([len(prompt) for prompt, *_ in rows])[:, None]
    ends = torch.tensor([len(prompt) + len(response) for prompt, response, _ in rows])[:, None]
    columns = torch.arange(ids.shape[1])
    mask = (columns >= starts) & (columns < ends)
    factors = torch.cat([torch.full((len(response),), factor) for _, response, factor in rows])
    (-(policy(packed(ids, mask), 1.0) * factors).sum()).backward()
    attention = policy.model.model.layers[1].self_attn
    fused = torch.cat([each.weight.grad for each in (attention.q_proj, attention.k_proj, attention.v_proj)])
    found, expected = (lean.embedding.grad, lean.layers[1].qkv.grad), (policy.head.weight.grad, fused)
    assert relative_difference(found, expected) < 1e-5


def test_the_lean_sampler_draws_from_the_model():
    # Prompts of two lengths, so that the shorter one's padding must be masked; every second token counts.
    folder = embedded_model("tiny")
    lean, policy = LeanQwen3(folder), load_policy(folder, "float32")
    prompts = [[5, 6, 14, 7, 8], [5, 14, 7]]
    drawn = lean.sample(prompts, 2000, 2, frozenset([1]), torch.Generator().manual_seed(0))
    for prompt, responses in zip(prompts, (drawn[:2000], drawn[2000:]), strict=True):
        first = max({tuple(r[:1]) for r in responses}, key=[tuple(r[:1]) for r in responses].count)
        after = [r[1] for r in responses if tuple(r[:1]) == first and len(r) > 1]
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([[*prompt, *first]])).logits[0, -1]
        expected = logits.softmax(dim=0)
        for token in expected.topk(3).indices.tolist():
            p = expected[token].item()
            # Five standard errors of a share of len(after) draws.
            assert abs(after.count(token) / len(after) - p) < 5 * math.sqrt(p * (1 - p) / len(after)) + 1e-9


def test_tiny_workload(tmp_path):
    folder = prepare("tiny", tmp_path / "tiny")
    train, test = problems(folder, "train"), problems(folder, "test")
    assert (len(train), len(test)) == (4096, 512)  # conf/task/arithmetic.yaml
    assert not {problem.prompt for problem in train} & {problem.prompt for problem in test}
    assert prepare(str(folder), tmp_path / "unused") == folder
    assert not (tmp_path / "unused").exists()


def test_a_folder_without_prompts_is_no_workload(tmp_path):
    with pytest.raises(SystemExit, match=r"config\.json, prompts\.jsonl, eval_prompts\.jsonl missing"):
        prepare(str(tmp_path), tmp_path / "out")


def test_solved_by():
    problem = Problem(prompt="1+1=", answer="2")
    assert [problem.solved_by(text) for text in ("2#2", "#3#2", "2", "#2 ")] == [True, True, False, False]


def test_an_unlikely_row_is_not_drawn():
    # States around a common direction, as final hidden states are; one of them far off the mean.
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(500, 16, generator=generator) + torch.eye(16)[0] * 6
    hidden[0] = torch.eye(16)[0] + torch.eye(16)[1] * 8
    weight = torch.randn(10, 16, generator=generator)
    row = unlikely_row(hidden, weight)
    assert added_share(hidden, weight, row, copies=100_000) < 1e-12
    # A row of zeros beside a head of zeros: 30 of 40 equal rows.
    flat = added_share(hidden, torch.zeros(10, 16), torch.zeros(16), copies=30)
    assert flat == pytest.approx(0.75, abs=1e-6)


def test_another_clock_changes_no_name_of_a_metric():
    names = []
    for callbacks in ([], [CpuTimers()]):
        module = toy.module()
        toy.fit(module, callbacks, 2)
        names.append(sorted(module.row))
    assert names[0] == names[1]
    assert "rollout/logprob_diff" in names[0]
