"""Tokenise prompts, by chat template or as plain text, and decode token ids of responses."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from pipo.errors import TaskError
from pipo.graders.thought import CLOSING, OPENING, open_thought, opened_at_end
from pipo.records.problems import Example, Message, Prompt
from pipo.records.rollouts import TokenIds
from pipo.tasks.base import Task
from pipo.tasks.chat import generation_prompt, render_chat, render_reply

# Fields of a response that graders read; many tokenizers have special tokens of these names.
_FIELDS = ("tool_call", "response", "answer", "reasoning")
_READ = frozenset(
    [*OPENING, *CLOSING, "<|channel|>", "<|message|>", "<|channel>"]
    + [f"<{slash}{field}>" for field in _FIELDS for slash in ("", "/")]
)
_TAG = re.compile(r"<(/?)([^<>/|]+)>")
# The end of a prompt in which a tag is looked for, in tokens: a tag has fewer than 40 bytes.
_TAIL = 64
# As many prompts as a batch may have.
_KNOWN_PROMPTS = 1024


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> TokenIds:
    """Token ids of a prompt, ready for the model to continue.

    Raises:
        TaskError: the chat template cannot render it.
    """
    (ids,) = encode_prompts(tokenizer, [prompt])
    return ids


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[TokenIds]:
    """The same for several in one call of the tokenizer, which takes half the time of many.

    Raises:
        TaskError: the chat template cannot render one of them.
    """
    if not prompts:
        return []
    if tokenizer.chat_template:
        # The template writes the special tokens itself.
        texts = [render_chat(tokenizer, prompt.messages, prompt.tools) for prompt in prompts]
        return [tuple(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    behind = _appended(tokenizer)
    encoded = tokenizer([prompt.text for prompt in prompts])["input_ids"]
    return [tuple(ids[: len(ids) - behind]) for ids in encoded]


@lru_cache(maxsize=8)
def _appended(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens a tokenizer puts behind a text: an end, after which there is nothing to answer."""
    ids, bare = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    return next((n for n in range(len(ids)) if ids[len(ids) - n - 1] == bare[-1]), 0) if bare else 0


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, task: Task, examples: Sequence[Example]
) -> list[TokenIds]:
    """Tokenise all prompts of a split once.

    Raises:
        TaskError: naming the first prompt that is empty.
    """
    encoded = encode_prompts(tokenizer, [task.render(example) for example in examples])
    for example, ids in zip(examples, encoded, strict=True):
        if not ids:
            raise TaskError(f"{example.uid}: its prompt has no tokens; does the model bring its tokenizer?")
    return encoded


def check_lengths(examples: Sequence[Example], prompt_ids: Sequence[TokenIds], limit: int) -> None:
    """Refuse prompts of more than ``limit`` tokens.

    Raises:
        TaskError: counting them and naming the longest.
    """
    long = [(len(ids), e.uid) for e, ids in zip(examples, prompt_ids, strict=True) if len(ids) > limit]
    if long:
        length, uid = max(long)
        raise TaskError(
            f"{len(long)} of {len(examples)} held-out prompts are longer than max_prompt_tokens={limit}, the "
            f"longest ({uid}) has {length} tokens; raise max_prompt_tokens"
        )


def trainable(
    examples: Sequence[Example], prompt_ids: Sequence[TokenIds], held_out: Sequence[Example], limit: int
) -> list[str | None]:
    """Why a problem must not be trained on; None for each that may.

    Args:
        examples: the training problems.
        prompt_ids: one tokenised prompt each.
        held_out: the problems that measure the result.
        limit: longest prompt, in tokens.
    """
    measured = {" ".join(e.question.split()): e.uid for e in held_out}
    reasons: list[str | None] = []
    for example, ids in zip(examples, prompt_ids, strict=True):
        twin = measured.get(" ".join(example.question.split()))
        if twin is not None:
            reasons.append(f"has the same question as the held-out problem {twin}")
        elif len(ids) > limit:
            reasons.append(f"its prompt has {len(ids)} tokens, more than task.max_prompt_tokens={limit}")
        else:
            reasons.append(None)
    return reasons


EncodeReply = Callable[[Sequence[Message], int], TokenIds]
"""From what an environment said and the token that ended the policy's turn to the tokens before its next."""


def reply_encoder(tokenizer: PreTrainedTokenizerBase) -> EncodeReply:
    """A reply as the model reads it, up to where its next turn begins.

    With a chat template it is what the template writes behind an answer, without the token that ends an
    answer when the policy has written that itself. Without one it is the plain text of the messages, and the
    environment has to bring all that parts them from each other and from what the policy said.
    """

    def encode(messages: Sequence[Message], last: int) -> TokenIds:
        if not tokenizer.chat_template:
            text = "".join(message.content for message in messages)
            return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        ids = tuple(tokenizer(render_reply(tokenizer, messages), add_special_tokens=False)["input_ids"])
        return ids[1:] if ids[:1] == (last,) else ids

    return encode


class Decode(Protocol):
    """Token ids to text."""

    def __call__(self, ids: Sequence[int], prompt: Sequence[int] = ()) -> str:
        """The text; that of a response to ``prompt`` begins with the thought which the prompt opened."""
        ...


def response_decoder(
    tokenizer: PreTrainedTokenizerBase, stop_token_ids: Collection[int] = frozenset()
) -> Decode:
    """Token ids to text: what a model says, without the marks that begin, end, pad or part texts.

    Special tokens are left out. Those that stand for something in the text stay: the tags that graders read,
    and pairs of tags such as ``<plan>`` and ``</plan>``. What a tokenizer names as its begin, end, padding
    and the like is never such a tag, and a stop token is none at the end. Spaces stay as they are.

    Args:
        tokenizer: of the model.
        stop_token_ids: what ends a response besides the tokenizer's own end.
    """
    marks = _marks(tokenizer)
    ends = frozenset(stop_token_ids) - _ids(tokenizer, _READ)
    prefilled = open_thought(generation_prompt(tokenizer))

    def text_of(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @lru_cache(_KNOWN_PROMPTS)  # the responses to a prompt come one after another
    def opened_by(end: TokenIds) -> str:
        tail = text_of(end)
        return prefilled if prefilled and tail.endswith(prefilled) else opened_at_end(tail)

    def decode(ids: Sequence[int], prompt: Sequence[int] = ()) -> str:
        length = len(ids)
        while length and ids[length - 1] in ends:
            length -= 1
        opening = opened_by(tuple(prompt[-_TAIL - len(prefilled) :]))
        return opening + text_of([token for token in ids[:length] if token not in marks])

    return decode


def _marks(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Special tokens that are no part of what is said."""
    special = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    named = {str(token) for token in tokenizer.special_tokens_map.values() if not isinstance(token, list)}
    texts = set(special.values()) - named - {"<s>", "</s>"}  # which begin and end a text in many models
    said = _READ | {text for text in texts if (pair := _partner(text)) is not None and pair in texts}
    return frozenset(id_ for id_, text in special.items() if text not in said)


def _partner(tag: str) -> str | None:
    """The closing tag for an opening one, and the other way round."""
    found = _TAG.fullmatch(tag)
    return None if found is None else f"<{'' if found[1] else '/'}{found[2]}>"


def _ids(tokenizer: PreTrainedTokenizerBase, tags: Collection[str]) -> frozenset[int]:
    """The tokens that are one of the tags."""
    return frozenset(id_ for id_, token in tokenizer.added_tokens_decoder.items() if str(token) in tags)
