"""Conversations: who is asked for what, which tokens are sampled, and where a conversation ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from threading import Event
from time import sleep
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from pipo.distributed.metrics import IterationMetrics
from pipo.distributed.seeds import Purpose, derive_seed
from pipo.errors import ConfigError, TaskError
from pipo.evaluation.options import EvaluationPlan
from pipo.evaluation.runner import evaluate
from pipo.records.problems import Example, Message, Reply, Reward, Transcript, turn_by_turn
from pipo.records.rollouts import Completions, IterationPrompts, PromptBatch, TokenIds, pad_rows
from pipo.rollout.collector import Collector
from pipo.rollout.engine import OnFinished
from pipo.rollout.local import LocalEngine
from pipo.rollout.options import SamplingParams
from pipo.rollout.reward_terms import OverlongPenalty
from pipo.rollout.turns import Conversations, converse
from pipo.tasks.chat import render_chat, render_reply
from pipo.tasks.environment import Environment
from pipo.tasks.prompts import reply_encoder, response_decoder
from tests import toy
from tests.unit.test_prompts import CHATML, tokenizer

STOP = toy.STOP
LIMIT = 10
EXAMPLES = toy.ToyTask().examples("train")[:2]
PROMPTS: list[TokenIds] = [(2, 3), (4,)]

# What stands before a turn -> the turn; two responses to each of the first prompts.
SCRIPT: dict[TokenIds, list[list[int]]] = {
    (2, 3): [[11, STOP], [12, 13]],
    (4,): [[14, STOP], [15, 16, 17, 18, 19, STOP]],
    # 11: answered, goes on, is answered once more and goes on again.
    (2, 3, 11, STOP, 30, 31): [[21, STOP]],
    (2, 3, 11, STOP, 30, 31, 21, STOP, 30, 31): [[22, 23, STOP]],
    # 14: ends its second turn without a reply.
    (4, 14, STOP, 30, 31): [[24, 25, 26, STOP]],
    # 15: has room for two more tokens behind the reply, and the third is cut off.
    (4, 15, 16, 17, 18, 19, STOP, 30, 31): [[27, 28, 29, STOP]],
}


class ScriptedEngine:
    """Says what the script has, with log-probability -1/10 of the token."""

    shares_weights = True

    def __init__(self) -> None:
        self.asked: list[tuple[list[TokenIds], int, int, int]] = []
        self.held: list[tuple[bool, Sequence[int] | None]] = []

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
        self.asked.append((list(prompts), group_size, sampling.max_response_tokens, seed))
        self.held.append((hold, continues))
        rows = [row for prompt in prompts for row in SCRIPT[tuple(prompt)][:group_size]]
        ids, mask = pad_rows(rows)
        return Completions(
            response_ids=ids,
            response_mask=mask,
            sampled=mask,
            logprobs=-0.1 * ids.float() * mask,
            finished=torch.tensor([row[-1] == STOP for row in rows], dtype=torch.bool),
        )

    def sync_weights(self, parameters: Iterable[tuple[str, Tensor]]) -> None: ...

    def sleep(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


class Replying(toy.ToyTask):
    """Replies ``30 31`` unless the turn begins with 24 or 22; keeps what it is asked, and what is closed."""

    max_turns: int | None = 3
    text = "30 31"

    def __init__(self) -> None:
        self.asked: list[tuple[str, Transcript]] = []
        self.made: list[Scripted] = []

    def environment(self, example: Example) -> Environment:
        self.made.append(Scripted(self, example))
        return self.made[-1]

    def said_to(self, example: Example, transcript: Transcript) -> Reply:
        return Reply() if first(transcript) in ("24", "22") else tell(self.text)


class Scripted(Environment):
    def __init__(self, task: Replying, example: Example) -> None:
        self.task, self.example, self.closed = task, example, 0

    def step(self, transcript: Transcript) -> Reply:
        assert not self.closed
        self.task.asked.append((self.example.uid, transcript))
        return self.task.said_to(self.example, transcript)

    def close(self) -> None:
        self.closed += 1


def first(transcript: Transcript) -> str:
    """The first word of the policy's newest turn."""
    return transcript[-1].content.split()[0]


def tell(text: str, **more: Any) -> Reply:
    return Reply(messages=(Message(role="user", content=text),), **more)


def talk(task: toy.ToyTask, engine=None, limit: int = LIMIT) -> tuple[Conversations, ScriptedEngine]:
    engine = engine or ScriptedEngine()
    spoken = converse(
        engine,
        task,
        EXAMPLES,
        PROMPTS,
        group_size=2,
        sampling=toy.sampling(max_response_tokens=limit),
        seed=5,
        decode=toy.decode,
        encode_reply=toy.encode_reply,
    )
    return spoken, engine


def said(*texts: str) -> Transcript:
    roles = ("assistant", "user")
    return tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(texts))  # type: ignore[arg-type]


ROWS = [
    [11, STOP, 30, 31, 21, STOP, 30, 31, 22, 23],  # its last turn is cut by the limit of ten
    [12, 13],
    [14, STOP, 30, 31, 24, 25, 26, STOP],
    [15, 16, 17, 18, 19, STOP, 30, 31, 27, 28],
]


def test_replies_stand_between_turns_and_are_not_sampled():
    told = talk(Replying())[0].completions
    rows = [ids[mask].tolist() for ids, mask in zip(told.response_ids, told.response_mask, strict=True)]
    assert rows == ROWS
    assert torch.equal(
        told.sampled, told.response_mask & (told.response_ids != 30) & (told.response_ids != 31)
    )
    assert torch.equal(told.logprobs, -0.1 * told.response_ids.float() * told.sampled)
    assert told.lengths.tolist() == [10, 2, 8, 10]
    assert told.sampled_lengths.tolist() == [6, 2, 6, 8]


def test_a_conversation_is_finished_when_its_last_turn_ended_by_itself():
    assert talk(Replying())[0].completions.finished.tolist() == [False, False, True, False]
    # With room for two more the first row's third turn ends by itself, and is the last that is allowed. To
    # the second turn of the fourth row the task would reply, and there is no room for that.
    assert talk(Replying(), limit=12)[0].completions.finished.tolist() == [True, False, True, False]


def test_a_reply_that_leaves_no_room_for_a_token_is_left_out_and_the_conversation_cut():
    """Eight tokens: the fourth row holds six, and its reply would fill it."""
    spoken, engine = talk(Replying(), limit=8)
    told = spoken.completions
    assert told.lengths.tolist() == [8 - 2, 2, 8, 6]
    assert told.finished.tolist() == [False, False, True, False]
    assert spoken.episodes is not None
    assert [len(each.transcript) for each in spoken.episodes] == [3, 1, 3, 1]
    assert engine.asked[2][0] == []


def test_every_turn_is_asked_for_with_all_that_was_said_and_a_seed_of_its_own():
    _, engine = talk(Replying())
    first, second, third = engine.asked
    assert first == (PROMPTS, 2, LIMIT, 5)  # as with a task without environments
    contexts = [(2, 3, 11, STOP, 30, 31), (4, 14, STOP, 30, 31), (4, *ROWS[3][:8])]
    # The longest room of the three, 10 - 4, for all of them.
    assert second == (contexts, 1, 6, derive_seed(5, Purpose.TURN, 1))
    assert third == ([(2, 3, *ROWS[0][:8])], 1, 2, derive_seed(5, Purpose.TURN, 2))
    # Rows 0, 2 and 3 go on from the first call, and then the first of these from the second.
    assert engine.held == [(True, None), (True, [0, 2, 3]), (False, [0])]


def test_environments_are_asked_after_turns_that_ended_by_themselves():
    task = Replying()
    # With room for two tokens more the third turn of the first row ends by itself, and is asked about
    # although it is the last.
    spoken, _ = talk(task, limit=12)
    one, two, three = f"11 {STOP}", f"14 {STOP}", f"15 16 17 18 19 {STOP}"
    last = said(one, "30 31", f"21 {STOP}", "30 31", f"22 23 {STOP}")
    end = said(three, "30 31", f"27 28 29 {STOP}")
    a, b = (example.uid for example in EXAMPLES)
    # Those of one turn are asked in any order.
    assert sorted(task.asked[:3], key=repr) == sorted([(a, last[:1]), (b, said(two)), (b, end[:1])], key=repr)
    assert sorted(task.asked[3:6], key=repr) == sorted(
        [(a, last[:3]), (b, said(two, "30 31", f"24 25 26 {STOP}")), (b, end)], key=repr
    )
    assert task.asked[6:] == [(a, last)]
    assert spoken.episodes is not None
    assert [episode.transcript for episode in spoken.episodes] == [
        last,
        said("12 13"),
        said(two, "30 31", f"24 25 26 {STOP}"),
        end,
    ]
    # Three: that of the second row was never needed.
    assert [each.closed for each in task.made] == [1, 1, 1]


def test_ranks_that_sample_together_ask_equally_often():
    """A rank whose conversations all ended at once, or that has none, asks without prompts."""

    class Silent(Replying):
        def said_to(self, example: Example, transcript: Transcript) -> Reply:
            return Reply()

    spoken, engine = talk(Silent())
    assert [call[0] for call in engine.asked] == [PROMPTS, [], []]
    plain = talk(toy.ToyTask())[0].completions
    for name in ("response_ids", "response_mask", "sampled", "logprobs", "finished"):
        assert torch.equal(getattr(spoken.completions, name), getattr(plain, name)), name


def test_a_task_without_environments_gets_what_the_engine_drew():
    policy = toy.make_policy()
    drawn = LocalEngine(policy, toy.ENGINE).generate(PROMPTS, 2, toy.sampling(max_response_tokens=LIMIT), 5)
    spoken, _ = talk(toy.ToyTask(), LocalEngine(policy, toy.ENGINE))
    assert spoken.episodes is None
    for name in ("response_ids", "response_mask", "sampled", "logprobs", "finished"):
        assert torch.equal(getattr(spoken.completions, name), getattr(drawn, name)), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"max_turns": None},
            "toy: it has environments, so max_turns must say how often the policy may speak",
        ),
        ({"max_turns": 0}, "toy: max_turns must be at least 1, got 0"),
        (
            {"said_to": lambda *_: "More."},
            "Replying: the step of an environment must return a Reply, got str for toy/train/0",
        ),
        ({"text": ""}, "the reply of the environment of toy/train/0 has no tokens"),
        (
            {"environment": lambda example: toy.ToyTask().environment(example)},
            "toy: has max_turns, so it needs an environment that answers the policy",
        ),
    ],
)
def test_what_cannot_be_used_is_one_line(changes, message):
    task = Replying()
    vars(task).update(changes)
    with pytest.raises(TaskError, match=f"^{re.escape(message)}$"):
        talk(task)
    assert all(each.closed == 1 for each in task.made)


def test_an_environment_that_raises_costs_its_episode_alone(caplog):
    class Broken(Replying):
        def said_to(self, example: Example, transcript: Transcript) -> Reply:
            if first(transcript) == "15":
                raise ValueError("no such tool")
            return Reply(reward=Reward(score=0.5)) if first(transcript) == "24" else tell("30 31")

    task = Broken()
    spoken, _ = talk(task)
    assert spoken.episodes is not None
    given = [episode.reward for episode in spoken.episodes]
    assert given == [None, None, Reward(score=0.5), Reward(score=0.0, error="ValueError: no such tool")]
    assert [len(episode.transcript) for episode in spoken.episodes] == [5, 1, 3, 1]
    assert [each.closed for each in task.made] == [1, 1, 1]
    said = "1 of 3 episodes broke their environment and score 0 (the first: ValueError: no such tool)"
    assert said in caplog.text


def test_environments_that_all_raise_end_the_run():
    class Broken(Replying):
        def said_to(self, example: Example, transcript: Transcript) -> Reply:
            raise ValueError(example.uid)

    said = "Broken: the environments of all 3 episodes raised; the first, of toy/train/0: ValueError: "
    with pytest.raises(TaskError, match=f"^{re.escape(said)}toy/train/0$"):
        talk(Broken())


def test_what_is_no_episodes_fault_ends_the_run_and_closes_all():
    class Refusing(Replying):
        def said_to(self, example: Example, transcript: Transcript) -> Reply:
            if first(transcript) == "21":
                raise ConfigError("tools: no such folder")
            return tell("30 31")

    task = Refusing()
    with pytest.raises(ConfigError, match=r"^tools: no such folder$"):
        talk(task)
    assert [each.closed for each in task.made] == [1, 1, 1]


def test_a_step_that_never_comes_back_is_the_machines_fault():
    release = Event()

    class Stuck(Replying):
        step_seconds = 0.05

        def said_to(self, example: Example, transcript: Transcript) -> Reply:
            if first(transcript) == "15":
                release.wait()
            return Reply(reward=Reward(score=1.0))

    task = Stuck()
    spoken, _ = talk(task)
    assert spoken.episodes is not None
    assert [episode.reward for episode in spoken.episodes] == [
        Reward(score=1.0),
        None,
        Reward(score=1.0),
        Reward(
            score=0.0,
            error="its environment took more than the task's step_seconds=0.05 for a step",
            infrastructure=True,
        ),
    ]
    release.set()
    while not all(each.closed for each in task.made):  # by the step itself, when it comes back
        sleep(0.01)


def test_the_last_reward_counts_and_calls_are_added_up():
    class Counting(Replying):
        def said_to(self, example: Example, transcript: Transcript) -> Reply:
            reward = Reward(score=len(transcript) / 10)
            return replace(super().said_to(example, transcript), reward=reward, tool_calls=2, tool_errors=1)

    spoken, _ = talk(Counting(), limit=12)
    assert spoken.episodes is not None
    given = [(e.reward and e.reward.score, e.tool_calls, e.tool_errors) for e in spoken.episodes]
    assert given == [(0.5, 6, 3), (None, 0, 0), (0.3, 4, 2), (0.3, 4, 2)]
    # No room for what is said to the fourth row; its reward counts.
    short = talk(Counting(), limit=8)[0].episodes
    assert short is not None
    assert [e.reward and e.reward.score for e in short] == [0.3, None, 0.3, 0.1]


def test_a_reply_checks_itself():
    with pytest.raises(ValueError, match="roles are user and tool, got assistant"):
        Reply(messages=(Message(role="assistant", content="I"),))
    with pytest.raises(ValueError, match="1 of 0 calls failed"):
        Reply(tool_errors=1)
    for messages in (Message(role="user", content="Go on."), ("Go on.",), [Message(role="user", content="")]):
        with pytest.raises(TypeError, match=r"^Reply.messages must be a tuple of Message, got "):
            Reply(messages=messages)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^Reply.reward must be a Reward or None, got 1.0$"):
        Reply(reward=1.0)  # type: ignore[arg-type]
    assert tell("half \ud800").messages[0].content == "half \\ud800"


# ---------------------------------------------------------------- around it


class Graded(Replying):
    """A tenth for every message; from the environment where the policy says 24."""

    def said_to(self, example: Example, transcript: Transcript) -> Reply:
        if first(transcript) == "24":
            return Reply(reward=Reward(score=0.3, answer=transcript[-1].content), tool_calls=1)
        role: Any = "tool" if first(transcript) == "15" else "user"
        return Reply(messages=(message("30 31", role),), tool_calls=2, tool_errors=1)

    def grade_transcripts(
        self, examples: Sequence[Example], transcripts: Sequence[Transcript]
    ) -> list[Reward]:
        assert not any(first(each) == "24" for each in transcripts)
        return [Reward(score=len(each) / 10, answer=each[-1].content) for each in transcripts]


def test_the_collector_grades_whole_conversations_and_measures_sampled_tokens():
    collector = Collector(
        task=Graded(),
        decode=toy.decode,
        encode_reply=toy.encode_reply,
        group_size=2,
        sampling=toy.sampling(max_response_tokens=LIMIT),
        dynamic_sampling_rounds=0,
        terms={"overlong": OverlongPenalty(buffer=4, max_response_tokens=LIMIT)},
    )
    first = PromptBatch(examples=tuple(EXAMPLES), prompt_ids=tuple(PROMPTS))
    metrics = IterationMetrics()
    got = collector.collect(
        ScriptedEngine(), IterationPrompts(first=first, refill=lambda _: first), 5, metrics, lambda n: n
    )
    torch.testing.assert_close(got.rewards, torch.tensor([0.5, 0.1, 0.3, 0.3]))
    assert got.transcripts is not None
    assert [len(each) for each in got.transcripts] == [5, 1, 3, 3]
    assert got.texts == tuple(" ".join(map(str, row)) for row in ROWS)
    # Sampled were 6, 2, 6 and 8 tokens; the last four before the limit of ten cost a quarter each.
    torch.testing.assert_close(got.shaping, torch.tensor([0.0, 0.0, 0.0, -0.5]))
    means = metrics.reduce(lambda total: total)
    assert means["train/response_length"] == 22 / 4
    assert means["rollout/sampled_tokens"] == 22
    assert means["rollout/truncated"] == 3 / 4
    assert means["rollout/turns"] == (3 + 1 + 2 + 2) / 4
    # Two replies of two tokens to the first row, one each to the last two: the fourth row's is a tool's.
    assert means["rollout/user_tokens"] == (4 + 0 + 2 + 0) / 4
    assert means["rollout/tool_tokens"] == 2 / 4
    # Asked are the first row's first two turns, both of the third row, and the fourth row's first.
    assert means["rollout/tool_calls"] == (4 + 0 + 3 + 2) / 4
    assert means["rollout/tool_errors"] == (2 + 0 + 1 + 1) / 9
    assert {"time/generate", "time/environment", "time/score"} <= set(means)


def test_an_evaluation_has_the_same_conversations():
    plan = EvaluationPlan(
        samples=2, ks=(1,), prompts_per_batch=2, confidence=0.95, resamples=10, majority=False, seed=5
    )
    options = toy.sampling(max_response_tokens=LIMIT)
    result = evaluate(
        ScriptedEngine(), Graded(), EXAMPLES, PROMPTS, toy.decode, toy.encode_reply, options, plan
    )
    samples = [sample for problem in result.problems for sample in problem.samples]
    assert [sample.response for sample in samples] == [" ".join(map(str, row)) for row in ROWS]
    assert [sample.score for sample in samples] == [0.5, 0.1, 0.3, 0.3]
    assert [sample.length for sample in samples] == [6, 2, 6, 8]
    assert samples[3].messages is not None
    assert samples[3].messages == (
        message(f"15 16 17 18 19 {STOP}", "assistant"),
        message("30 31", "tool"),
        message("27 28", "assistant"),
    )
    assert turn_by_turn(samples[3].messages) == (
        f"[assistant]\n15 16 17 18 19 {STOP}\n\n[tool]\n30 31\n\n[assistant]\n27 28"
    )
    assert [sample.finished for sample in samples] == [False, False, True, False]


def test_without_a_verdict_on_conversations_the_last_turn_is_graded():
    found = toy.ToyTask().grade_transcripts(EXAMPLES, [said("3", "30", "4 5"), said("7 2")])
    assert [reward.score for reward in found] == [1.0, 0.0]


# ---------------------------------------------------------------- from a reply to tokens


def token(made: PreTrainedTokenizerFast, text: str) -> int:
    found = made.convert_tokens_to_ids(text)
    assert isinstance(found, int)
    return found


def text_of(made: PreTrainedTokenizerFast, ids: TokenIds) -> str:
    return str(made.decode(list(ids)))


def message(text: str, role: Any = "user") -> Message:
    return Message(role=role, content=text)


def test_a_plain_reply_is_its_text_and_no_more():
    made = tokenizer(added="<s> $A </s>")
    said = (message("\n5+5="), message("10", "tool"))
    assert text_of(made, reply_encoder(made)(said, token(made, "</s>"))) == "\n5+5=10"


def test_with_a_chat_template_a_reply_is_a_users_turn():
    """Token for token what the template makes of the conversation, whichever token ended the answer."""
    made = tokenizer(CHATML, special=["<|im_start|>", "<|im_end|>"])
    end, other = token(made, "<|im_end|>"), token(made, "</s>")
    encode, again = reply_encoder(made), (message("And 5+5?"),)
    rest = "\n<|im_start|>user\nAnd 5+5?<|im_end|>\n<|im_start|>assistant\n"
    assert text_of(made, encode(again, end)) == rest
    assert text_of(made, encode(again, other)) == "<|im_end|>" + rest
    turns = [{"role": r, "content": c} for r, c in (("user", "2+3?"), ("assistant", "5"))]
    before = f"{made.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)}5<|im_end|>"
    whole = made.apply_chat_template(
        [*turns, {"role": "user", "content": "And 5+5?"}], tokenize=False, add_generation_prompt=True
    )
    assert before + rest == whole
    assert response_decoder(made)([*made("5")["input_ids"], end, *encode(again, end)]) == (
        "5\nuser\nAnd 5+5?\nassistant\n"
    )


TOOLS = (
    "{% for m in messages %}[{{ 'ipython' if m.role == 'tool' else m.role }}] {{ m.content }}\n{% endfor %}"
)
STRICT = (
    "{% for m in messages %}{% if m.role == 'tool' and not m.tool_call_id %}{{ raise_exception('no id') }}"
    "{% endif %}{% if m.role == 'user' and loop.previtem and loop.previtem.role == 'user' %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        pytest.param(TOOLS, "\n[ipython] 5\n[ipython] 7\n[user] Well?\n", id="knows tools"),
        pytest.param(TOOLS.replace("'tool'", "'none'"), "\n[user] 5\n\n7\n\nWell?\n", id="does not"),
        pytest.param(STRICT, "\n[user] 5\n\n7\n\nWell?\n", id="refuses them"),
    ],
)
def test_what_a_tool_says_is_a_users_turn_where_a_template_knows_no_tool(template, expected):
    said = (message("5", "tool"), message("7", "tool"), message("Well?"))
    assert render_reply(tokenizer(template), said) == expected


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{% for t in tools or [] %}<{{ t.function.name }}>{% endfor %}{{ messages[-1].content }}",
            "<add><halve>2+3?",
        ),
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
            'system: You may call these functions:\n{"type": "function", "function": {"name": "add"}}\n'
            '{"type": "function", "function": {"name": "halve"}}\nuser: 2+3?\n',
        ),
    ],
)
def test_functions_stand_where_the_template_shows_them_or_in_the_system_turn(template, said):
    tools = [{"type": "function", "function": {"name": name}} for name in ("add", "halve")]
    assert render_chat(tokenizer(template), [message("2+3?")], tools) == said


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ messages[0].content }}{{ messages[-1].content }}", "leaves out the text of a reply"),
        (
            "{% for m in messages if m.role == 'user' %}{% if loop.index > 1 %}"
            "{{ raise_exception('one turn only') }}{% endif %}{{ m.content }}{% endfor %}",
            "fails on a second turn: one turn only",
        ),
    ],
)
def test_a_template_that_cannot_have_a_second_turn_is_one_line(template, problem):
    with pytest.raises(TaskError, match=f"^models/mine: its chat template {problem}"):
        reply_encoder(tokenizer(template))([message("More?")], 0)


def test_a_template_may_write_a_reply_in_another_form():
    made = tokenizer("{{ messages | tojson }}")
    text = text_of(made, reply_encoder(made)([message('Say "yes"')], 0))
    assert "yes" in text
    assert text.endswith("]")
