"""Python as a tool: which calls are read, what they are answered, and who grades the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from pipo.errors import TaskError
from pipo.graders.python_tool import NO_OUTPUT, PythonLimits, PythonSession, PythonTool
from pipo.records.problems import Example, Message, Reply
from pipo.records.rollouts import Completions, TokenIds, pad_rows
from pipo.rollout.engine import OnFinished
from pipo.rollout.graded import sample_and_grade
from pipo.rollout.options import SamplingParams
from pipo.tasks.boxed_sums import BoxedSumsTask
from pipo.tasks.prompts import encode_prompt, reply_encoder, response_decoder
from pipo.tasks.python_tool import CallForm, PythonToolTask, read_calls
from tests.toy import sampling
from tests.unit.test_prompts import CHATML, tokenizer

LIMITS = PythonLimits(timeout_s=0.5, wall_factor=600.0, cpu_s=1, memory_mb=512, output_kb=64, shown_chars=40)
GONE = "the interpreter was restarted, variables are gone"


def sums() -> BoxedSumsTask:
    return BoxedSumsTask(
        operands_max=9,
        fewshot=0,
        working=False,
        test_share=0.2,
        seed=0,
        grader_workers=1,
        grader_cpu_s=5.0,
        grader_wall_s=300.0,
    )


def with_python(call: CallForm = "auto", **changes: Any) -> PythonToolTask[Example]:
    return PythonToolTask(task=sums(), call=call, max_turns=4, limits=LIMITS.model_copy(update=changes))


@pytest.fixture(scope="module")
def task() -> Iterator[PythonToolTask[Example]]:
    task = with_python()
    yield task
    task.close()


@pytest.fixture(scope="module")
def tool() -> Iterator[PythonTool]:
    tool = PythonTool(limits=LIMITS, turns=4)
    yield tool
    tool.close()


def tagged(code: str) -> str:
    return f'<tool_call>\n{{"name": "python", "arguments": {{"code": "{code}"}}}}\n</tool_call>'


def test_an_episode(task: PythonToolTask[Example]) -> None:
    example = task.examples("test")[0]
    environment = task.environment(example)
    transcript: tuple[Message, ...] = ()

    def say(text: str) -> Reply:
        nonlocal transcript
        transcript = (*transcript, Message(role="assistant", content=text))
        reply = environment.step(transcript)
        transcript = (*transcript, *reply.messages)
        return reply

    assert say(f"I compute. {tagged('x = 6')}\n{tagged('x * 7')}") == Reply(
        messages=(Message(role="tool", content=NO_OUTPUT), Message(role="tool", content="42")), tool_calls=2
    )
    assert say("<think>```python\nx = 0\n```</think>\n```python\nprint(x)\nx / 0\n```") == Reply(
        messages=(
            Message(
                role="user",
                content="\n```output\n6\nZeroDivisionError: division by zero (line 2)\n```\n",
            ),
        ),
        tool_calls=1,
        tool_errors=1,
    )
    answer = f"It is \\boxed{{{example.answer}}}."
    assert say(answer) == Reply()
    environment.close()

    (right,) = task.grade_transcripts([example], [transcript])
    assert (right.score, right.answer) == (1.0, example.answer)
    cut = (Message(role="assistant", content=f"{answer}\n{tagged('1')}"),)
    assert task.grade_transcripts([example], [cut])[0].score == 0.0, "a turn with a call is no answer"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "the call is not valid JSON"),
        ("[" * 100_000, "the call is not valid JSON"),
        ("1", "the call names no tool; the only one is 'python'"),
        (
            '{"name": "bash", "arguments": {"code": "ls"}}',
            "there is no tool 'bash'; the only one is 'python'",
        ),
        ('{"name": "python", "arguments": {"code": 1}}', "the call has no code"),
        ('{"name": "python", "parameters": {"code": "1"}}', "the call has no code"),
    ],
)
def test_a_call_that_cannot_be_read_is_answered(
    task: PythonToolTask[Example], text: str, problem: str
) -> None:
    turn = Message(role="assistant", content=f"<tool_call>{text}</tool_call>")

    reply = task.environment(task.examples("test")[0]).step((turn,))

    assert (reply.tool_calls, reply.tool_errors) == (1, 1)
    (message,) = reply.messages
    assert message.content.startswith(f"error: {problem}")


def test_which_calls_are_read() -> None:
    both = f"{tagged('1')}\n```python\n2\n```"
    fence = "a\n```py\n2\n```\n```text\n3\n```\n```python\n\n```"

    def codes(turn: str, form: CallForm) -> list[str | None]:
        return [call.code for call in read_calls(turn, form)]

    assert codes(both, "auto") == codes(both, "tool_call") == ["1"]
    assert codes(both, "fenced") == ["2"]
    assert codes(fence, "auto") == codes(fence, "fenced") == ["2"]
    assert codes(fence, "tool_call") == []
    assert codes('<tool_call>{"name": "python", "arguments": {"code": "a\nb"}}', "auto") == ["a\nb"]
    assert codes(f"<think>{tagged('1')}", "auto") == codes("the answer is `x`", "auto") == []


def test_limits_are_answered_and_cost_no_other_episode(tool: PythonTool) -> None:
    session, other = PythonSession(tool), PythonSession(tool)
    other.run(["x = 1"])

    late, left = session.run(["while True: pass", "x = 2"])
    assert late.text == f"error: no result within 0.5 s of processor time; {GONE}"
    assert left.text == "error: not run, the interpreter was restarted"
    assert late.failed
    assert left.failed
    (ended,) = session.run(["import os\nos._exit(0)"])
    assert ended.text == f"error: the interpreter ended; {GONE}"
    long, memory, lost = session.run(["'y' * 100", "bytearray(1 << 30)", "x"])
    assert long.text == f"'{'y' * 39}... (62 more characters)"
    assert not long.failed
    assert memory.text == "MemoryError (line 1)"
    assert memory.failed
    assert lost.text == "NameError: name 'x' is not defined (line 1)"
    session.close()
    assert other.run(["x"])[0].text == "1"
    other.close()


@pytest.mark.slow
def test_the_calls_of_a_turn_share_its_seconds(tool: PythonTool) -> None:
    session = PythonSession(tool)
    work = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"

    assert [each.failed for each in session.run([work, work])] == [False, True]
    assert [each.failed for each in session.run([work])] == [False]
    session.close()


def test_more_episodes_than_a_launcher_has_places(tool: PythonTool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipo.graders.python_tool._SLOTS", 2)
    sessions = [PythonSession(tool) for _ in range(3)]
    for number, session in enumerate(sessions):
        session.run([f"x = {number}"])

    assert [session.run(["x"])[0].text for session in sessions] == ["0", "1", "2"]
    for session in sessions:
        session.close()


@pytest.mark.parametrize(("call", "chat", "plain"), [
    ("auto", "<tool_call>", "```python"),
    ("tool_call", "<tool_call>", "<tool_call>"),
    ("fenced", "```python", "```python"),
])  # fmt: skip
def test_prompts_say_how_to_call(call: CallForm, chat: str, plain: str) -> None:
    task = with_python(call)
    bare = sums().render(task.examples("test")[0])

    prompt = task.render(task.examples("test")[0])

    assert [m.role for m in prompt.messages] == ["system", "user"]
    assert prompt.messages[1:] == bare.messages
    assert chat in prompt.messages[0].content
    assert plain in prompt.text
    assert prompt.text.endswith(bare.text)
    assert bool(prompt.tools) == (chat == "<tool_call>")


class Scripted:
    """Says what the script has for a problem and a turn of it."""

    shares_weights = True

    def __init__(self, reads: PreTrainedTokenizerFast, script: Mapping[str, Sequence[str]]) -> None:
        self._reads, self._script = reads, script

    def generate(
        self,
        prompts: Sequence[TokenIds],
        group_size: int,
        sampling: SamplingParams,
        seed: int,
        on_finished: OnFinished | None = None,
        *,
        hold: bool = False,
        continues: Sequence[int] | None = None,
    ) -> Completions:
        rows = [
            self._reads(f"{self._turn(str(self._reads.decode([*ids])))}<|im_end|>")["input_ids"]
            for ids in prompts
        ]
        ids, mask = pad_rows(rows)
        finished = torch.ones(len(rows), dtype=torch.bool)
        return Completions(
            response_ids=ids,
            response_mask=mask,
            sampled=mask,
            logprobs=torch.zeros(ids.shape),
            finished=finished,
        )

    def _turn(self, context: str) -> str:
        (turns,) = (turns for question, turns in self._script.items() if question in context)
        return turns[context.count("<|im_start|>assistant") - 1]

    def sync_weights(self, parameters: Iterable[tuple[str, Tensor]]) -> None: ...

    def sleep(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


def test_episodes_are_sampled_and_graded_as_the_tasks_own_responses(task: PythonToolTask[Example]) -> None:
    reads = tokenizer(CHATML, special=["<|im_start|>", "<|im_end|>"])
    first, second = examples = task.examples("test")[:2]
    right = f"\\boxed{{{first.answer}}}"
    engine = Scripted(
        reads,
        {
            first.question: [f"Let me see. {tagged(f'x = {first.question}')}", tagged("x"), right],
            second.question: [tagged("x"), "\\boxed{-1}"],
        },
    )
    end = reads("<|im_end|>")["input_ids"][0]

    graded = sample_and_grade(
        engine,
        task,
        examples,
        [encode_prompt(reads, task.render(example)) for example in examples],
        group_size=1,
        sampling=sampling(max_response_tokens=1000, stop_token_ids=frozenset({end})),
        seed=0,
        decode=response_decoder(reads, (end,)),
        encode_reply=reply_encoder(reads),
    )

    assert [verdict.score for verdict in graded.verdicts] == [1.0, 0.0]
    assert [verdict.answer for verdict in graded.verdicts] == [first.answer, "-1"]
    assert graded.episodes is not None
    assert [(e.tool_calls, e.tool_errors) for e in graded.episodes] == [(2, 0), (1, 1)]
    said = [message.content for message in graded.episodes[0].transcript if message.role == "tool"]
    assert said == [NO_OUTPUT, first.answer]
    assert graded.episodes[1].transcript[1].content == "NameError: name 'x' is not defined (line 1)"


def test_the_task_is_the_option_with_room_for_its_prompt(compose_config: Callable[..., DictConfig]) -> None:
    option, task = (
        read(compose_config(*overrides), TrainConfig).task
        for overrides in (["task=math", "tool=python"], ["task=math_python"])
    )
    made = task.build()

    assert (option.tool and option.tool.node) == (task.tool and task.tool.node)
    assert isinstance(made, PythonToolTask)
    assert (made.name, made.template, made.max_turns) == ("math_python", "math/1+python/1", 6)
    assert task.max_prompt_tokens > option.max_prompt_tokens
    # What an evaluation is compared by: a limit of the tool may change a verdict.
    assert task.options["tool"]["limits"]["timeout_s"] == LIMITS.timeout_s * 20


def test_what_a_task_cannot_be() -> None:
    with pytest.raises(TaskError, match="boxed_sums has an environment of its own, so it takes no tool"):
        PythonToolTask(task=with_python(), call="auto", max_turns=4, limits=LIMITS)
    with pytest.raises(TaskError, match=r"cpu_s must be at least timeout_s=1\.5, got 1"):
        with_python(timeout_s=1.5)
