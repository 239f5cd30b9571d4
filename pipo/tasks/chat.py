"""Apply a model's chat template to the turns of a conversation, and find its generation prompt.

Templates differ in what they take. One that knows no system turn, whether it refuses it or leaves it out
without a word, gets that text in the first user turn. One that shows the date always shows the same one, so
that a prompt is the same whenever it is rendered. Anything else that a template does not do is one error.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from pipo.errors import ConfigError, TaskError
from pipo.records.problems import Message
from pipo.records.text import json_text

# What a template is told is now. It is the date that Llama's own templates show where there is no clock.
NOW = datetime(2024, 7, 26)
# A template is a program of the model's author, and fails as programs do.
_FAILURES = (
    *(jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError),
    *(TypeError, ValueError),
)
# Stand for the text of a turn, to see whether it arrives, and where.
_PROBE = "Pipo0Probe"
_ANSWER = "Pipo1Answer"
# Where a tokenizer carries the variables of its template.
_VARIABLES = "_pipo_chat_variables"
_OWN = {
    *inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters,
    *("messages", "strftime_now", "bos_token", "eos_token"),
}
_LOG = logging.getLogger(__name__)


def set_variables(tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any]) -> None:
    """Have the chat template told more than the turns, wherever the tokenizer goes.

    They stay with this object and are in no file that it saves: whoever serves the model chooses anew.

    Args:
        tokenizer: of the model.
        variables: by name, such as ``enable_thinking``.

    Raises:
        ConfigError: a variable is not the user's to set.
    """
    for name in variables:
        if name in _OWN:
            raise ConfigError(f"model.chat_template_kwargs.{name}: is set by the program")
    text = str(tokenizer.chat_template or "")
    if unread := [name for name in variables if not re.search(rf"\b{re.escape(name)}\b", text)]:
        what = "its chat template does not read it" if text else "it has no chat template"
        _LOG.warning("model.chat_template_kwargs.%s: of no effect, %s", unread[0], what)
    setattr(tokenizer, _VARIABLES, dict(variables))


def variables_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What the chat template is told besides the turns."""
    return getattr(tokenizer, _VARIABLES, {})


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The conversation as the model reads it, up to where its answer begins.

    Functions that a template does not show stand in the system turn, a line of JSON each.

    Raises:
        TaskError: the chat template fails, or leaves out what is asked. The message names the model.
    """
    problem = ""
    if tools and not _shows(tokenizer, tools):
        messages, tools = _with_tools(messages, tools), ()
    for turns in _forms(messages):
        try:
            text = _render(tokenizer, turns, tools=tools)
        except _FAILURES as error:
            problem = f"fails: {' '.join(str(error).split()) or type(error).__name__}"
            continue
        lost = next((turn.role for turn in turns if _is_lost(tokenizer, turns, turn, text)), None)
        if lost is None:
            return text
        problem = f"leaves out the text of the {lost} turn"
    raise TaskError(f"{tokenizer.name_or_path}: its chat template {problem}")


def render_reply(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """What a chat template writes from the end of an answer to where the next begins.

    A template that does not know the role of a tool, or refuses it here, gets a user's turn in its place.

    Args:
        tokenizer: of the model.
        messages: what was said to the answer, at least one.

    Raises:
        TaskError: the chat template fails, or leaves out the reply. The message names the model.
    """
    problem = ""
    for form in _reply_forms(tokenizer, messages):
        turns = (Message(role="user", content="?"), Message(role="assistant", content=_ANSWER), *form)
        try:
            _, answered, behind = _render(tokenizer, turns).rpartition(_ANSWER)
        except _FAILURES as error:
            said = " ".join(str(error).split()) or type(error).__name__
            problem = f"fails on a second turn: {said}"
            continue
        if answered and not any(_is_lost(tokenizer, turns, turn, behind) for turn in form):
            return behind
        problem = "leaves out the text of a reply, or of the answer before it"
    raise TaskError(f"{tokenizer.name_or_path}: its chat template {problem}")


def generation_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a chat template writes after the last turn, where the answer begins; "" without a template."""
    if not tokenizer.chat_template:
        return ""
    asked = (Message(role="user", content=_PROBE),)
    try:
        with_it, without = (_render(tokenizer, asked, begin=begin) for begin in (True, False))
    except _FAILURES:
        return ""  # a template that fails is an error where a prompt is rendered
    return with_it.removeprefix(without) if with_it.startswith(without) else ""


def _forms(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The conversation as it is, then without a system turn."""
    yield messages
    others = [turn for turn in messages if turn.role != "system"]
    asked = next((i for i, turn in enumerate(others) if turn.role == "user"), None)
    if asked is not None and len(others) < len(messages):
        texts = [turn.content for turn in messages if turn.role == "system"] + [others[asked].content]
        others[asked] = replace(others[asked], content="\n\n".join(t for t in texts if t.strip()))
        yield others


def _reply_forms(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> Iterator[Sequence[Message]]:
    """A reply as it is, if the template names all of its roles; then as one turn of the user."""
    names = re.findall(r"""["'](\w+)["']""", str(tokenizer.chat_template))
    if "tool" in names or all(message.role == "user" for message in messages):
        yield messages
    if len(messages) > 1 or messages[0].role != "user":
        yield (Message(role="user", content="\n\n".join(message.content for message in messages)),)


def _shows(tokenizer: PreTrainedTokenizerBase, tools: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a template writes every function into the prompt."""
    try:
        text = _render(tokenizer, (Message(role="user", content=_PROBE),), tools=tools)
    except _FAILURES:
        return False
    return all(tool["function"]["name"] in text for tool in tools)


def _with_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The conversation with functions at the end of its system turn."""
    listed = "\n".join(["You may call these functions:", *map(json_text, tools)])
    if messages and messages[0].role == "system":
        first = replace(messages[0], content=f"{messages[0].content}\n\n{listed}")
        return (first, *messages[1:])
    return (Message(role="system", content=listed), *messages)


def _is_lost(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Message], turn: Message, text: str) -> bool:
    """Whether what a turn says is not in the text. Of an answer, templates may leave out the thought."""
    if turn.role == "assistant" or turn.content.strip() in text:
        return False
    probed = [replace(other, content=_PROBE) if other is turn else other for other in turns]
    try:
        return _PROBE not in _render(tokenizer, probed)  # it may arrive in another form
    except _FAILURES:
        return True


def _render(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Message],
    *,
    begin: bool = True,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    shown: list[Any] | None = list(map(dict, tools)) or None
    # A template's clock is a global of its compiled form, which is kept by its text. Functions among the
    # variables are no way in: newer releases hand a template plain data only.
    _compile_jinja_template(tokenizer.get_chat_template(tools=shown)).globals["strftime_now"] = NOW.strftime
    text = tokenizer.apply_chat_template(
        messages, tools=shown, tokenize=False, add_generation_prompt=begin, **variables_of(tokenizer)
    )
    return str(text)
