"""From a problem to token ids: chat template when the tokenizer has one, the plain text otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from pipo.records import TokenIds
from pipo.tasks.base import Example, Prompt, Task, TaskError


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> TokenIds:
    """Token ids of a prompt, ready for the model to continue."""
    if tokenizer.chat_template:
        messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        # The template writes the special tokens itself.
        return tuple(tokenizer(str(text), add_special_tokens=False)["input_ids"])
    return tuple(tokenizer(prompt.text)["input_ids"])


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, task: Task, examples: Sequence[Example]
) -> list[TokenIds]:
    """Tokenise all prompts of a split once.

    Raises:
        TaskError: naming the first prompt that is empty.
    """
    encoded = [encode_prompt(tokenizer, task.render(example)) for example in examples]
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
            reasons.append(f"is the held-out problem {twin}")
        elif len(ids) > limit:
            reasons.append(f"its prompt has {len(ids)} tokens, more than max_prompt_tokens={limit}")
        else:
            reasons.append(None)
    return reasons


def response_decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], str]:
    """Response token ids to text, without special tokens."""

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    return decode
