"""The tasks for tool use: reading, prompts and grading, on small rows and on real ones if given."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from pipo.errors import TaskError
from pipo.tasks.api_bank import ApiBankTask
from pipo.tasks.bfcl import CATEGORIES, BfclTask
from pipo.tasks.published_file import PublishedFile
from pipo.tasks.tool_use import ToolUseTask
from tests.built import built
from tests.verdicts import verdict

DATA = Path(__file__).parents[1] / "data"


def file(path: Path | str | None, hub_id: str | None = None) -> PublishedFile:
    return PublishedFile(
        path=None if path is None else str(path), hub_id=hub_id, file="x.json", revision="main"
    )


def rlla(path: Path | str, reward: Any = "graded") -> ToolUseTask:
    return ToolUseTask(train=None, test=file(path), template="tool_dialogue", reward=reward)


def bfcl(test: Path, answers: Path, category: str = "simple_python") -> BfclTask:
    return BfclTask(category=category, test=file(test), answers=file(answers), template="bfcl")


def api_bank(path: Path | str, level: int = 1) -> ApiBankTask:
    return ApiBankTask(level=level, test=file(path), template="tool_dialogue", reward="calls")


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_rlla_rows_in_both_forms() -> None:
    task = rlla(DATA / "rlla_small.jsonl")
    examples = task.examples("test")
    assert [len(e.reference.calls) for e in examples] == [2, 1, 0, 1]
    assert [e.reference.fields for e in examples[1:3]] == [
        ("think", "tool_call", "response"),
        ("think", "response"),
    ]
    prompt = task.render(examples[3])
    assert [m.role for m in prompt.messages] == ["system", "user"]
    assert prompt.messages[1].content == "<user> Turn the lamp on. </user>"
    assert prompt.text.startswith("You help with tools.")
    response = '<think> ok </think>\n<tool_call>\n{"name": "lamp", "parameters": {}}\n</tool_call>'
    assert [verdict(task, e, response).score for e in examples[1:]] == [6 / 7, 0.0, 1.0]
    assert [verdict(rlla(DATA / "rlla_small.jsonl", "calls"), e, response).score for e in examples[1:]] == [
        1,
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"question": "q"},
            r"must have the fields prompt and reward_model, or instruction, input and output",
        ),
        ({"prompt": "text", "reward_model": {}}, r"field 'prompt' must be a system and a user message"),
        (
            {"prompt": [{"role": "user", "content": "x"}], "reward_model": {}},
            r"field 'prompt' must be a system and a user message",
        ),
        (
            {"instruction": "i", "input": "x", "output": "<think>a</think>"},
            r"not in the output format \(its fields are \['think'\]\)",
        ),
        (
            {"instruction": "i", "input": "x", "output": "<think>a</think><tool_call>{</tool_call>"},
            r"not in the output format \(tool call 1 is not valid JSON\)",
        ),
    ],
)
def test_rlla_rows_that_cannot_be_used(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(TaskError, match=reason):
        rlla(written(tmp_path, [row])).examples("test")


def test_api_bank_rows_in_both_forms() -> None:
    task = api_bank(DATA / "api_bank_small.jsonl")
    lamp, plant = task.examples("test")
    assert lamp.answer == '{"name": "lamp", "parameters": {}}'
    right = "<think>x</think><tool_call>" + plant.answer + "</tool_call>"
    assert verdict(task, plant, right).score == 1.0
    assert verdict(task, plant, right.replace("fern", "Fern")).score == 0.0
    assert verdict(task, plant, right.replace(plant.answer, 2 * plant.answer)).score == 0.0
    assert verdict(task, plant, "").score == 0.0


@pytest.mark.parametrize("answer", ["__import__('os')", "[", [], [{"name": "x"}], 5, "[1]"])
def test_api_bank_answers_that_cannot_be_used(tmp_path: Path, answer: Any) -> None:
    path = written(tmp_path, [{"system": "s", "user": "u", "answer": answer}])
    with pytest.raises(TaskError, match=r"none of the 1 rows can be used; .*field 'answer'"):
        api_bank(path).examples("test")


def test_bfcl_rows_and_their_answers_meet_by_id() -> None:
    task = bfcl(DATA / "bfcl_small.json", DATA / "bfcl_small_answers.json")
    fern, ivy = task.examples("test")
    assert task.name == "bfcl_simple_python"
    assert fern.uid == "bfcl_simple_python/simple_python_0"
    assert fern.answer == "[garden.water(plant='fern', litres=0.5)]"
    assert ivy.answer == "[garden.water(plant='ivy', days=['Monday', 'Friday'])]"
    assert verdict(task, fern, ivy.answer).score == 0.0
    good = "[garden.water(plant='Ivy', days=['monday', 'FRIDAY'], litres=1, options={'gentle': True})]"
    assert verdict(task, ivy, good).score == 1.0


def test_bfcl_prompts() -> None:
    task = bfcl(DATA / "bfcl_small.json", DATA / "bfcl_small_answers.json")
    fern, ivy = (task.render(e) for e in task.examples("test"))
    assert [m.role for m in fern.messages] == ["system", "user"]
    assert "[function_name(parameter=value, other_parameter=value)" in fern.messages[0].content
    assert '"name": "garden.water"' in fern.messages[0].content
    assert fern.messages[0].content.endswith("Be kind to plants.")
    assert "expression" not in fern.messages[0].content
    # Two turns of the user in a row are one message: many chat templates refuse anything else.
    assert [m.role for m in ivy.messages] == ["system", "user", "assistant", "user"]
    assert ivy.messages[1].content == "Hello.\n\nAre you there?"
    assert ivy.text.endswith("Answer: Yes.\n\nRequest: Water the ivy on Monday and Friday.\nAnswer:")


def test_bfcl_rows_that_cannot_be_used(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (DATA / "bfcl_small.json").read_text().splitlines()]
    rows[0]["id"] = "unknown"
    rows.append({**rows[1], "function": [{**rows[1]["function"][0], "name": "other"}]})
    rows.append({**rows[1], "question": [[{"role": "user", "content": "x"}], []]})
    task = bfcl(written(tmp_path, rows), DATA / "bfcl_small_answers.json")
    assert len(task.examples("test")) == 1
    reasons = [row.reason for row in task.dropped("test")]
    assert "has no answer with the id 'unknown'" in reasons[0]
    assert "the reference calls 'garden.water', which is not described" in reasons[1]
    assert "field 'question' must be a list with one conversation" in reasons[2]


def test_bad_sources_and_options(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"category 'rest': must be one of simple_python, "):
        bfcl(tmp_path, tmp_path, "rest")
    with pytest.raises(TaskError, match=r"x.json is not on the Hugging Face hub; download it and name"):
        file(None).rows()
    with pytest.raises(TaskError, match=r"cannot load x.json of nobody/nothing@main .* name a local file"):
        file(None, "nobody/nothing").rows()
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(TaskError, match=r"empty.jsonl: no rows"):
        file(empty).rows()


def data_folder() -> str:
    folder = os.environ.get("PIPO_DATA_DIR")
    if folder is None:
        pytest.skip("PIPO_DATA_DIR is not set: a folder with rlla_*.jsonl, bfcl/ and api_bank/")
    return folder


@pytest.mark.parametrize(
    ("name", "field", "count"), [("rlla_test", "reward_model", 80), ("rlla_sft", "output", 60)]
)
def test_real_rlla_rows(name: str, field: str, count: int) -> None:
    path = f"{data_folder()}/{name}.jsonl"
    task, strict = rlla(path), rlla(path, "calls")
    examples = task.examples("test")
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    truths = [row[field]["ground_truth"] if field == "reward_model" else row[field] for row in rows]
    assert (len(examples), task.dropped("test")) == (count, ())
    assert {
        verdict(t, e, r).score for t in (task, strict) for e, r in zip(examples, truths, strict=True)
    } == {1.0}
    for example, truth in zip(examples, truths, strict=True):
        spoilt = re.sub(r'"parameters": \{', '"parameters": {"no_such": 0, ', truth)
        spoilt = spoilt.replace(", }", "}") if example.reference.calls else "<think>x</think>" + truth
        assert verdict(task, example, spoilt).score < 1.0
        assert verdict(task, example, truth.replace("</think>", "")).score < 1.0
        if example.reference.calls:
            assert verdict(strict, example, spoilt).score == 0.0


@pytest.mark.parametrize(("level", "count"), [(1, 60), (2, 67), (3, 60)])
def test_real_api_bank_rows(level: int, count: int) -> None:
    task = api_bank(f"{data_folder()}/api_bank/level-{level}-api_processed.jsonl", level)
    examples = task.examples("test")
    assert (len(examples), task.dropped("test")) == (count, ())
    for example in examples:
        right = f"<think> x </think>\n<tool_call>\n{example.answer}\n</tool_call>"
        assert verdict(task, example, right).score == 1.0
        assert verdict(task, example, right.replace('"name": "', '"name": "X')).score == 0.0
        more = right.replace('"parameters": {', '"parameters": {"x": 1, ')
        assert verdict(task, example, more).score == 0.0


# Rows that no answer passes, by the official checker as little as here: a required parameter has no
# alternatives (106, 112), or the reference holds a parameter that the function does not have (862, 964).
UNSOLVABLE = {
    "live_simple_106-63-0",
    "live_simple_112-68-0",
    "live_multiple_862-181-3",
    "live_multiple_964-207-0",
}


@pytest.mark.parametrize("category", CATEGORIES)
def test_real_bfcl_rows(category: str) -> None:
    folder = Path(data_folder()) / "bfcl"
    name = f"BFCL_v4_{category}.json"
    task = bfcl(folder / name, folder / "possible_answer" / name, category)
    examples = task.examples("test")
    assert len(examples) == len((folder / name).read_text(encoding="utf-8").splitlines())
    for example in examples:
        if example.reference.expectation != "calls":
            called = example.reference.expectation == "any call"
            assert verdict(task, example, "[anything(a=1)]").score == float(called)
            assert verdict(task, example, "No function fits.").score == float(not called)
            continue
        solvable = example.uid.partition("/")[2] not in UNSOLVABLE
        assert verdict(task, example, example.answer).score == float(solvable), example.uid
        for wrong in (
            example.answer.replace("(", "_(", 1),
            "[" + ", ".join([example.answer[1:-1]] * 2) + "]",
            re.sub(r"\)\]$", ", no_such=1)]", example.answer).replace("(, ", "("),
            "",
        ):
            assert verdict(task, example, wrong).score == 0.0, (example.uid, wrong)


@pytest.mark.parametrize("benchmark", ["tools", "bfcl_relevance"])
def test_every_part_of_the_benchmarks_reads_its_rows(compose_config: Any, benchmark: str) -> None:
    overrides = (f"benchmark={benchmark}", f"data_dir={data_folder()}", "output_dir=x")
    cfg = compose_config(*overrides, name="eval")
    for part in cfg.benchmark.parts:
        task = built(cfg, f"benchmark.parts.{part}.source")
        assert len(task.examples("test")) >= 16
        assert task.dropped("test") == ()


def test_weights_form_the_official_single_turn_score(compose_config: Any) -> None:
    """Thirds for non-live, live and irrelevance, as the leaderboard's 10 : 10 : 10."""
    cfg = compose_config("benchmark=tools", "output_dir=x", name="eval")
    assert list(cfg.benchmark.average) == ["RLLA", "BFCL", "API-Bank"]
    assert sorted(p for column in cfg.benchmark.average.values() for p in column) == sorted(
        cfg.benchmark.parts
    )
    weights = cfg.benchmark.weights
    total = sum(weights[part] for part in cfg.benchmark.average["BFCL"])

    def share(*names: str) -> float:
        return sum(weights[f"bfcl_{name}"] for name in names) / total

    simple = [f"simple_{language}" for language in ("python", "java", "javascript")]
    assert share(*simple, "multiple", "parallel", "parallel_multiple") == pytest.approx(1 / 3)
    assert share("multiple") == pytest.approx(share(*simple)) == pytest.approx(1 / 12)
    assert share("simple_java") == pytest.approx(1 / 36)
    assert share("irrelevance") == pytest.approx(share("live_irrelevance")) == pytest.approx(1 / 6)
    assert share("live_multiple") == pytest.approx(1053 / (258 + 1053 + 16 + 24) / 3)
    assert share("live_simple") == pytest.approx(258 / (258 + 1053 + 16 + 24) / 3)
    assert sum(entry["weight"] for entry in cfg.benchmark.not_covered) == pytest.approx(0.7)


def test_weights_of_the_official_total(compose_config: Any) -> None:
    """The leaderboard's 10 : 10 : 10 : 30 for non-live, live, irrelevance and multi-turn; 40 are left out."""
    cfg = compose_config("benchmark=bfcl_total", "output_dir=x", name="eval")
    weights, column = cfg.benchmark.weights, cfg.benchmark.average["BFCL"]
    assert sorted(column) == sorted(cfg.benchmark.parts)
    total = sum(weights[part] for part in column)
    turns = [part for part in column if "multi_turn" in part]
    assert [weights[part] / total for part in turns] == pytest.approx([0.3 / 0.6 / 4] * 4)
    assert sum(weights[part] for part in column if "irrelevance" in part) / total == pytest.approx(0.1 / 0.6)
    assert sum(entry["weight"] for entry in cfg.benchmark.not_covered) == pytest.approx(0.4)
