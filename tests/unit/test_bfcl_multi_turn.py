"""BFCL's multi-turn conversations: what is executed and refused, limits, and the official checker's verdicts.

The rows here are made up; the simulators and the checker are those of the package bfcl-eval.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench.bfcl_verdicts import CATEGORIES, OPTIONS, conversations, official, ours
from pipo.errors import TaskError
from pipo.graders.bfcl_turns import executable
from pipo.graders.bfcl_worlds import Simulators
from pipo.records.problems import Message, Reply, Transcript
from pipo.tasks.bfcl_multi_turn import MOST_STEPS, BfclMultiTurnTask
from pipo.tasks.bfcl_multi_turn_rows import PackageFile
from tests.built import built

needs_package = pytest.mark.skipif(
    find_spec("bfcl_eval") is None, reason="the package bfcl-eval is not installed (make bfcl)"
)
FILES = {"GorillaFileSystem": {"root": {"home": {"type": "directory", "contents": {
    "notes": {"type": "file", "content": "one two"}}}}}}  # fmt: skip
ROW = {
    "id": "multi_turn_base_0",
    "question": [
        [{"role": "user", "content": "Make a folder called box."}],
        [{"role": "user", "content": "How many words are in notes?"}],
    ],
    "initial_config": FILES,
    "involved_classes": ["GorillaFileSystem"],
    "ground_truth": [["mkdir(dir_name='box')"], ["wc('notes', 'w')"]],
}
RIGHT = ["[mkdir(dir_name='box')]", "Done.", "[wc(file_name='notes', mode='w')]", "Two words."]


@pytest.fixture(scope="module")
def simulators() -> Iterator[Simulators]:
    made = Simulators(**{**OPTIONS, "workers": 1})
    yield made
    made.close()


def task_of(folder: Path, simulators: Simulators, rows: Sequence[dict[str, Any]]) -> BfclMultiTurnTask:
    path = folder / "rows.json"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = PackageFile(path=str(path), file="none")
    return BfclMultiTurnTask(
        category="multi_turn_base",
        train=None,
        test=source,
        answers=source,
        template="bfcl_multi_turn",
        simulators=simulators,
        max_turns=168,
    )


def told(task: BfclMultiTurnTask, responses: Sequence[str], row: int = 0) -> list[Reply]:
    """What a conversation answers to the policy's turns."""
    transcript: Transcript = ()
    environment = task.environment(task.examples("test")[row])
    replies = []
    for response in responses:
        transcript += (Message(role="assistant", content=response),)
        replies.append(environment.step(transcript))
        transcript += replies[-1].messages
    environment.close()
    return replies


def test_what_is_executed_is_what_the_leaderboard_writes() -> None:
    """By reading its ``decode_execute``; the slow test below compares with it on thousands of responses."""
    assert executable("[cd(folder='a'), ls()]") == ("cd(folder='a')", "ls()")
    assert executable('mv(source="a\'b", destination=-1)') == ('mv(source="a\'b", destination=-1)',)
    assert executable("[f(a=g(b=1), c={'d': 1}, e=[{'x': 1}], h=True, i=2*3)]") == (
        "f(a=g(b=1), c={'d': 1}, e=[{'x': 1}], h=True, i=6)",
    )
    assert executable("[sort('notes')]") == ("sort()",)  # by place is by no name
    for text in ("", "[]", "I am done.", "[f(a={})]", "[f(a=1) for a in b]", "[f(a=1)] and more"):
        assert executable(text) == ()


@needs_package
def test_results_requests_and_the_verdict(tmp_path: Path, simulators: Simulators) -> None:
    task = task_of(tmp_path, simulators, [ROW])
    made, asked, counted, ended = told(task, RIGHT)
    assert made.messages == (Message(role="tool", content="\nNone\n"),)
    assert asked.messages == (Message(role="user", content="\n\nHow many words are in notes?\n"),)
    assert counted.messages == (Message(role="tool", content='\n{"count": 2, "type": "words"}\n'),)
    assert (counted.tool_calls, counted.tool_errors) == (1, 0)
    assert ended.messages == ()
    assert ended.reward is not None
    assert ended.reward.score == 1.0
    for spoilt in (
        [RIGHT[0], RIGHT[1], "[ls()]", RIGHT[3]],  # another result
        ["[mkdir(dir_name='bag')]", *RIGHT[1:]],  # another state
        ["That is not possible.", *RIGHT[2:]],  # nothing done
    ):
        reward = told(task, spoilt)[-1].reward
        assert reward is not None
        assert reward.score == 0.0
        assert reward.feedback is not None
        assert reward.feedback.startswith("multi_turn:")


@needs_package
def test_a_whole_conversation_is_graded_as_it_went(tmp_path: Path, simulators: Simulators) -> None:
    task = task_of(tmp_path, simulators, [ROW])
    (example,) = task.examples("test")
    said = tuple(Message(role="assistant", content=text) for text in RIGHT)
    whole, cut = task.grade_transcripts([example] * 2, [said, said[:3]])
    assert (whole.score, cut.score) == (1.0, 0.0)
    assert cut.feedback == "the conversation was cut in turn 2 of 2"


@needs_package
def test_calls_that_reach_beyond_the_simulators_are_refused(tmp_path: Path, simulators: Simulators) -> None:
    """The official ``eval`` would run each of them. Of names that nothing has it says what is said here."""
    task = task_of(tmp_path, simulators, [ROW])
    instance = "policy_eval_multi_turn_base_0_GorillaFileSystem_instance"
    for call in (
        "print(end='x')",
        "importlib.import_module(name='os')",
        "execute_multi_turn_func_call(func_call_list=[])",
        f"{instance}._load_scenario(scenario=1)",
        "touch(file_name=copy.copy(x=1))",
        "class_instance._load_scenario(scenario=1)",  # what the function that evaluates has named
        f"{instance.replace('eval', 'ground_truth_eval', 1)}.__dict__.clear()",
        "touch(file_name={\"a': __import__('os').getcwd(), 'b\": 1})",
    ):
        (reply,) = told(task, [f"[{call}]"])
        assert [message.content for message in reply.messages] == [
            "\nError during execution: only the functions of this problem can be called\n"
        ], call
        assert reply.tool_errors == 1
    odd = told(task, ["[no_such(a=1), Files.ls()]"])[0]
    assert [message.content.strip() for message in odd.messages] == [
        "Error during execution: name 'no_such' is not defined",
        "Error during execution: name 'Files' is not defined",
    ]
    assert (odd.tool_calls, odd.tool_errors) == (2, 2)


@needs_package
def test_a_policy_cannot_reach_what_it_is_compared_with(tmp_path: Path, simulators: Simulators) -> None:
    """The checker has the right systems beside the policy's, from the second turn on.

    Without attributes they equal any, and their calls fail with the words that the policy got for its own.
    """
    row = {**ROW, "ground_truth": [["mkdir(dir_name='box')"], ["mkdir(dir_name='bag')"]]}
    task = task_of(tmp_path, simulators, [row])
    right = "policy_ground_truth_eval_multi_turn_base_0_GorillaFileSystem_instance"
    forged = f"[{right}.__dict__.clear(), {right}._current_dir()]"
    reward = told(task, [*RIGHT[:2], forged, "Done."])[-1].reward
    assert reward is not None
    assert reward.score == 0.0


@needs_package
def test_a_step_over_the_limit_costs_itself_alone(tmp_path: Path) -> None:
    """It ends its process; the other conversation in that process is taken up again where it was."""
    slow = {**ROW, "involved_classes": ["GorillaFileSystem", "MathAPI"]}
    simulators = Simulators(**{**OPTIONS, "workers": 1, "seconds": 0.5})
    task = task_of(tmp_path, simulators, [slow])
    (example,) = task.examples("test")

    def step(environment: Any, text: str) -> str:
        return environment.step((Message(role="assistant", content=text),)).messages[0].content

    hasty, other = task.environment(example), task.environment(example)
    step(hasty, "[mkdir(dir_name='box')]")
    step(other, "[touch(file_name='mine')]")
    answer = step(hasty, "[logarithm(value=10, base=3, precision=100000000)]")
    assert answer.startswith("\nError during execution: the step ran into a limit")
    assert step(hasty, "[ls()]") == '\n{"current_directory_content": ["notes", "box"]}\n'
    assert step(other, "[ls()]") == '\n{"current_directory_content": ["notes", "mine"]}\n'
    task.close()


@needs_package
def test_more_steps_than_the_leaderboard_allows_end_the_conversation(
    tmp_path: Path, simulators: Simulators
) -> None:
    """Before the last turn the leaderboard counts it as wrong; in the last it checks what was done."""
    task = task_of(tmp_path, simulators, [ROW])
    assert told(task, ["[ls()]"] * MOST_STEPS)[-1].reward is None
    early = told(task, ["[ls()]"] * (MOST_STEPS + 1))[-1]
    late = told(task, [*RIGHT[:3], *["[ls()]"] * MOST_STEPS])[-1]
    assert early.messages == late.messages == ()
    assert early.reward is not None
    assert early.reward.feedback == "the conversation ended in turn 1 of 2"
    assert (early.reward.score, late.reward and late.reward.score) == (0.0, 1.0)


@needs_package
def test_functions_that_come_late_are_told_with_their_turn(tmp_path: Path, simulators: Simulators) -> None:
    late = {
        **ROW,
        "question": [ROW["question"][0], [], ROW["question"][1]],
        "ground_truth": [["mkdir(dir_name='box')"], ["pwd()"], ["wc('notes', 'w')"]],
        "missed_function": {"1": ["wc", "pwd"]},
    }
    task = task_of(tmp_path, simulators, [late])
    (example,) = task.examples("test")
    names = {json.loads(line)["name"] for line in example.functions.splitlines()}
    assert "ls" in names
    assert not names & {"wc", "pwd"}
    new, *sentence = example.requests[1].splitlines()[1:]
    assert json.loads(new)["name"] == "wc"
    assert sentence == ["I have updated some more functions you can choose from. What about now?"]
    prompt = task.render(example)
    assert [message.role for message in prompt.messages] == ["system", "user"]
    assert prompt.messages[1].content == "Make a folder called box."


@needs_package
def test_rows_that_cannot_be_used(tmp_path: Path, simulators: Simulators) -> None:
    task = task_of(tmp_path, simulators, [
        ROW,
        {**ROW, "id": "simple_python_0"},
        {**ROW, "involved_classes": ["WebSearchAPI"]},
        {**ROW, "ground_truth": [["ls()"]]},
        {**ROW, "question": [[], []]},
        {**ROW, "ground_truth": None, "id": "multi_turn_base_9", "initial_config": []},
    ])  # fmt: skip
    assert len(task.examples("test")) == 1
    reasons = [dropped.reason for dropped in task.dropped("test")]
    for reason, said in zip(
        reasons, ("no id", "involved_classes", "2 turns", "turn 1", "object"), strict=True
    ):
        assert said in reason
    with pytest.raises(TaskError, match="category 'rest'"):
        BfclMultiTurnTask(
            category="rest",
            train=None,
            test=PackageFile(path=None, file="x"),
            answers=PackageFile(path=None, file="x"),
            template="bfcl_multi_turn",
            simulators=simulators,
            max_turns=3,
        )


def test_options_of_the_simulators_out_of_range() -> None:
    for name, value in (("workers", 0), ("seconds", 0.0), ("wall_s", 1.0), ("memory_mb", 0)):
        with pytest.raises(TaskError, match=rf"simulators\.{name}"):
            Simulators(**{**OPTIONS, name: value})


@needs_package
@pytest.mark.parametrize("category", CATEGORIES)
def test_real_rows_and_their_right_calls(compose_config: Any, category: str, simulators: Simulators) -> None:
    """Rows as the configuration finds them, the first one's right calls judged right."""
    if "PIPO_DATA_DIR" not in os.environ:
        pytest.skip("PIPO_DATA_DIR is not set: a folder with bfcl/")
    overrides = (f"benchmark=bfcl_{category}", f"data_dir={os.environ['PIPO_DATA_DIR']}", "output_dir=x")
    task = built(compose_config(*overrides, name="eval"), f"benchmark.parts.bfcl_{category}.source")
    assert (len(task.examples("test")), task.dropped("test")) == (10, ())
    (first, *_) = conversations(category, 1, 0)
    transcript = [Message(role="assistant", content=text) for turn in first.said for text in turn]
    (reward,) = task.grade_transcripts(task.examples("test")[:1], [tuple(transcript)])
    assert reward.score == 1.0
    task.close()


@needs_package
def test_verdicts_are_those_of_the_official_checker_on_a_few(simulators: Simulators) -> None:
    few = list(conversations("multi_turn_miss_func", 2, 4))
    assert [ours(simulators, each)[0] for each in few] == [right for right, _ in official(few)]


@needs_package
@pytest.mark.slow
@pytest.mark.parametrize("category", CATEGORIES)
def test_verdicts_and_calls_are_those_of_the_official_checker(category: str) -> None:
    """Every right conversation and an altered one of each; the calls as its decoder reads them, too."""
    made = Simulators(**OPTIONS)
    every = list(conversations(category, 200, 1))
    for conversation, mine, theirs in zip(
        every, [ours(made, e) for e in every], official(every), strict=True
    ):
        ended = len(conversation.said) != len(conversation.truth)  # the official code decodes nothing then
        assert (mine[0], [] if ended else mine[1]) == theirs, (conversation.entry["id"], conversation.kind)
        assert theirs[0] or conversation.kind
    made.close()
