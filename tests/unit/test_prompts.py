"""From turns to tokens with the templates and tokenizers that people have, and from tokens back to text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pipo.errors import ConfigError, TaskError
from pipo.records.problems import Message, Prompt
from pipo.tasks.chat import render_reply, set_variables
from pipo.tasks.prompts import encode_prompt, response_decoder
from pipo.tasks.template import load_template

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
DROPS_SYSTEM = "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
PLAIN_TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def tokenizer(
    template: str | None = None,
    *,
    added: str | None = None,
    special: Sequence[str] = (),
    plain: Sequence[str] = (),
    **named: str,
) -> PreTrainedTokenizerFast:
    """Reads bytes; ``added`` is what it puts around a text, as the library writes it (``<s> $A </s>``)."""
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<s>", "</s>", *special])
    made.add_tokens([AddedToken(text, normalized=False) for text in plain])
    if added is not None:
        ids = [(text, made.token_to_id(text)) for text in added.split() if text != "$A"]
        made.post_processor = processors.TemplateProcessing(single=added, special_tokens=ids)
    names = {"bos_token": "<s>", "eos_token": "</s>", **named}
    fast = PreTrainedTokenizerFast(tokenizer_object=made, name_or_path="models/mine", **names)
    if template is not None:
        fast.chat_template = template
    return fast


def conversation(*turns: tuple[str, str], text: str = "") -> Prompt:
    return Prompt(messages=tuple(Message(role=r, content=c) for r, c in turns), text=text)  # type: ignore[arg-type]


ASKED = conversation(("system", "Be brief."), ("user", "2+3?"), text="Problem: 2+3?\nSolution:")
SHOWN = conversation(
    ("system", "Be brief."), ("user", "1+1?"), ("assistant", "2"), ("user", "2+3?"), text="-"
)


def rendered(made: PreTrainedTokenizerFast, prompt: Prompt) -> str:
    return str(made.decode(encode_prompt(made, prompt)))


@pytest.mark.parametrize(
    ("added", "front"),
    [(None, ""), ("<s> $A", "<s>"), ("$A </s>", ""), ("<s> $A </s>", "<s>"), ("<s> $A </s> </s>", "<s>")],
)
def test_a_plain_prompt_ends_where_the_answer_begins(added: str | None, front: str) -> None:
    made = tokenizer(added=added)
    assert rendered(made, ASKED) == front + ASKED.text
    ends_itself = conversation(("user", "-"), text="a</s>")
    assert rendered(made, ends_itself) == f"{front}a</s>"


def test_a_chat_prompt_has_no_end_of_the_tokenizer() -> None:
    made = tokenizer(CHATML, added="<s> $A </s>", special=["<|im_start|>", "<|im_end|>"])
    assert rendered(made, ASKED).endswith("2+3?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("head", [NO_SYSTEM, ALTERNATING, NO_SYSTEM + ALTERNATING])
def test_a_refused_system_turn_goes_into_the_first_user_turn(head: str) -> None:
    made = tokenizer(head + PLAIN_TURNS)
    assert rendered(made, ASKED) == "user: Be brief.\n\n2+3?\n"
    assert rendered(made, SHOWN) == "user: Be brief.\n\n1+1?\nassistant: 2\nuser: 2+3?\n"


def test_a_system_turn_that_is_left_out_without_a_word_goes_into_the_first_user_turn() -> None:
    made = tokenizer(DROPS_SYSTEM)
    assert rendered(made, ASKED) == "user: Be brief.\n\n2+3?\n"
    assert rendered(made, SHOWN) == "user: Be brief.\n\n1+1?\nassistant: 2\nuser: 2+3?\n"


@pytest.mark.parametrize(
    "template",
    [
        PLAIN_TURNS,
        # The text arrives in another form: trimmed, quoted, or inside of the first user turn.
        "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}",
        "{{ messages | tojson }}",
        "{% set s = messages[0].content %}[INST] <<SYS>>{{ s }}<</SYS>> {{ messages[1].content }} [/INST]",
    ],
)
def test_a_system_turn_that_arrives_stays(template: str) -> None:
    system = 'Say "yes"\nor "no".'
    made = tokenizer(template)
    text = rendered(made, conversation(("system", system), ("user", "Well?")))
    assert text.count("yes") == 1
    assert f"{system}\n\nWell?" not in text


def test_the_first_user_turn_need_not_be_the_first_turn() -> None:
    made = tokenizer(NO_SYSTEM + PLAIN_TURNS)
    turns = (("system", "Be brief."), ("assistant", "Hello."), ("user", "2+3?"))
    assert rendered(made, conversation(*turns)) == "assistant: Hello.\nuser: Be brief.\n\n2+3?\n"


def test_a_blank_system_text_adds_nothing() -> None:
    made = tokenizer(NO_SYSTEM + PLAIN_TURNS)
    assert rendered(made, conversation(("system", " "), ("user", "Well?"))) == "user: Well?\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('only\n tools') }}", "fails: only tools"),
        ("{% for m in messages %}{{ m.nope.more }}{% endfor %}", "fails: .*has no attribute 'nope'"),
        ("{% for m in messages %}", "fails: Unexpected end of template.*"),
        ("{{ messages[0].content + 1 }}", "fails: .*concatenate.*"),
        ("{{ messages[7].content.text }}", "fails: .*"),
        ("{{ 1 / 0 }}", "fails: division by zero"),
        (
            "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
            "leaves out.*",
        ),
        ("Hello.", "leaves out the text of the user turn"),
        ("{{ messages[-1].content }}", "leaves out the text of the user turn"),
    ],
)
def test_any_other_failure_is_one_line_that_names_the_model(template: str, message: str) -> None:
    made = tokenizer(template)
    with pytest.raises(TaskError, match=rf"^models/mine: its chat template {message}$") as caught:
        encode_prompt(made, SHOWN)
    assert "\n" not in str(caught.value)


def test_several_templates_without_a_default_are_one_line() -> None:
    made = tokenizer()
    made.chat_template = {"rag": PLAIN_TURNS, "tool_use": PLAIN_TURNS}
    with pytest.raises(TaskError, match=r"^models/mine: its chat template fails: .*no default"):
        encode_prompt(made, ASKED)


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{ strftime_now('%H:%M:%S.%f') }} ", "00:00:00.000000 "),
        (
            "{% if not date_string is defined %}{% if strftime_now is defined %}"
            "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{% endif %}"
            "Today Date: {{ date_string }}\n",
            "Today Date: 26 Jul 2024\n",
        ),
        ("{% macro now() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}{{ now() }} ", "2024-07-26 "),
        ("{%- set today = strftime_now('%A') -%}{{ today }} ", "Friday "),
    ],
)
def test_a_template_with_the_date_shows_the_same_one_on_every_day(template: str, shown: str) -> None:
    assert rendered(tokenizer(template + PLAIN_TURNS), ASKED) == f"{shown}system: Be brief.\nuser: 2+3?\n"


def test_worked_problems_and_the_tasks_own_templates_reach_the_model() -> None:
    for head in ("", NO_SYSTEM, ALTERNATING):
        made = tokenizer(head + PLAIN_TURNS)
        shown = load_template("gsm8k").render({"question": "2+3?"}, worked=2)
        assert rendered(made, shown).count("boxed{24") == 0
        assert rendered(made, shown).count("assistant: ") == 2
        asked = load_template("science").render({"question": "Which?", "letters": "A or B"})
        assert "one letter (A or B)" in rendered(made, asked)


TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>"]
MARKS = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<pad>", "<unk>", "<|python_tag|>"]
SAID = "<think> a </think>\n<tool_call>\n{}\n</tool_call> \\boxed{ 5 } , n't <answer>B</answer>"


@pytest.mark.parametrize(
    "kinds", [{"plain": TAGS}, {"special": TAGS}, {"plain": TAGS[:2], "special": TAGS[2:]}, {}]
)
@pytest.mark.parametrize("end", ["", "</s>", "<|im_end|>", "<|eot_id|><pad><pad>", "<|im_end|></s>"])
def test_tags_survive_and_marks_do_not(kinds: dict[str, list[str]], end: str) -> None:
    kinds = {**kinds, "special": [*kinds.get("special", []), *MARKS]}
    made = tokenizer(**kinds, pad_token="<pad>", unk_token="<unk>")  # type: ignore[arg-type]
    made.clean_up_tokenization_spaces = True
    ids = made(f"<s>{SAID}{end}", add_special_tokens=False)["input_ids"]
    assert response_decoder(made)(ids) == SAID


@pytest.mark.parametrize(
    ("special", "said", "text"),
    [
        (["<plan>", "</plan>"], "<plan>a</plan>", "<plan>a</plan>"),
        (["<plan>"], "<plan>a</plan>", "a</plan>"),  # a mark of some kind: nothing closes it
        (["[THINK]", "[/THINK]"], "[THINK]a[/THINK]b", "[THINK]a[/THINK]b"),
        (["<|begin_of_thought|>", "<|end_of_thought|>"], *["<|begin_of_thought|>a<|end_of_thought|>b"] * 2),
        (["<start_of_turn>", "<end_of_turn>"], "a<end_of_turn>\n<start_of_turn>", "a\n"),
        (["[INST]", "[/INST]"], "a[INST]b[/INST]", "ab"),
        (
            ["<|channel>", "<channel|>", "<turn|>"],
            "<|channel>thought\na<channel|>b<turn|>",
            "<|channel>thought\na<channel|>b",
        ),
        (
            ["<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|return|>"],
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
            "<|channel|>analysis<|message|>aassistant<|channel|>final<|message|>b",
        ),
    ],
)
def test_which_special_tokens_are_said(special: list[str], said: str, text: str) -> None:
    made = tokenizer(special=special)
    assert response_decoder(made)(made(said, add_special_tokens=False)["input_ids"]) == text


def test_what_a_tokenizer_names_as_its_end_is_not_said() -> None:
    made = tokenizer(special=["<turn>", "</turn>"], bos_token="<turn>", eos_token="</turn>")
    ids = made("<turn>a</turn>", add_special_tokens=False)["input_ids"]
    assert response_decoder(made)(ids) == "a"
    assert response_decoder(made)(made("<s>a</s>", add_special_tokens=False)["input_ids"]) == "a"


def test_a_stop_token_is_not_said_unless_a_grader_reads_it() -> None:
    made = tokenizer(plain=["<|stop|>", "</answer>"])
    stops = made.convert_tokens_to_ids(["<|stop|>", "</answer>"])
    decode = response_decoder(made, frozenset(stops))
    for said, text in (("a<|stop|>", "a"), ("<answer>B</answer>", "<answer>B</answer>"), ("<|stop|>a", None)):
        assert decode(made(said, add_special_tokens=False)["input_ids"]) == (said if text is None else text)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    ("begun", "opened"),
    [
        ("<think>", "<think>"),
        ("<think>\n", "<think>\n"),
        (" <think>\n\n", "<think>\n\n"),
        ("<think>\nOkay, ", "<think>\nOkay, "),  # the template begins the thought itself
        ("[THINK]", "[THINK]"),
        ("<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>"),
        ("<think>\n\n</think>\n\n", ""),
        ("", ""),
    ],
)
def test_a_thought_that_the_prompt_opened_is_put_in_front(begun: str, opened: str, special: bool) -> None:
    tags = ["<think>", "</think>", "[THINK]", "<|im_start|>", "<|im_end|>"]
    template = CHATML.replace("assistant\n{% endif", f"assistant\n{begun}{{% endif")
    made = tokenizer(template, **{"special" if special else "plain": tags})  # type: ignore[arg-type]
    decode = response_decoder(made)
    prompt, ids = encode_prompt(made, ASKED), made("so \\boxed{5}")["input_ids"]
    assert decode(ids, prompt) == f"{opened}so \\boxed{{5}}"
    assert decode(ids) == "so \\boxed{5}"


def test_a_question_about_the_tag_opens_nothing_and_a_plain_prompt_may() -> None:
    made = tokenizer(CHATML)
    prompt = encode_prompt(made, conversation(("user", "Begin with <think>")))
    assert response_decoder(made)(made("5")["input_ids"], prompt) == "5"
    made = tokenizer()
    prompt = encode_prompt(made, conversation(("user", "-"), text="Problem: 2+3?\n<think>\n"))
    assert response_decoder(made)(made("5")["input_ids"], prompt) == "<think>\n5"


# As Qwen3's: the thought is closed before the answer begins, where it is turned off.
SWITCH = CHATML.replace(
    "assistant\n{% endif",
    "assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif",
)


def test_thinking_is_turned_off_for_prompts_replies_and_what_is_read_of_a_response() -> None:
    made = tokenizer(SWITCH)
    assert rendered(made, ASKED).endswith("<|im_start|>assistant\n")
    set_variables(made, {"enable_thinking": False})
    assert rendered(made, ASKED).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    said = render_reply(made, [Message(role="user", content="No.")])
    assert said.endswith("No.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    prompt, ids = encode_prompt(made, ASKED), made("5")["input_ids"]
    assert response_decoder(made)(ids, prompt) == "5"  # no thought is open
    set_variables(made, {"enable_thinking": True})
    assert rendered(made, ASKED).endswith("<|im_start|>assistant\n")


def test_variables_are_in_no_file_of_the_tokenizer(tmp_path: Path) -> None:
    made = tokenizer(SWITCH)
    set_variables(made, {"enable_thinking": False})
    made.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert again.chat_template == SWITCH
    assert rendered(again, ASKED).endswith("<|im_start|>assistant\n")


def test_a_date_can_be_given_and_what_the_program_sets_cannot() -> None:
    made = tokenizer("Today: {{ date_string }}\n" + PLAIN_TURNS)
    set_variables(made, {"date_string": "1 Jan 2026"})
    assert rendered(made, ASKED).startswith("Today: 1 Jan 2026\n")
    for name in ("tokenize", "add_generation_prompt", "messages", "strftime_now"):
        with pytest.raises(
            ConfigError, match=rf"^model\.chat_template_kwargs\.{name}: is set by the program$"
        ):
            set_variables(made, {name: 1})


@pytest.mark.parametrize(
    ("template", "why"), [(CHATML, "its chat template does not read it"), (None, "it has no chat template")]
)
def test_a_variable_of_no_effect_is_said(
    template: str | None, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = tokenizer(template)
    before = rendered(made, ASKED)
    set_variables(made, {"enable_thinkin": False})
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"model.chat_template_kwargs.enable_thinkin: of no effect, {why}"]
    assert rendered(made, ASKED) == before
