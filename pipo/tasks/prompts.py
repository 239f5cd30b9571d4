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
    tokenizer: PreTrainedTokenizerBase, task: Task, examples: Sequence[Example], max_prompt_tokens: int
) -> list[TokenIds]:
    """Tokenise all prompts of a split once.

    Raises:
        TaskError: naming the first prompt that is empty or longer than the limit.
    """
    encoded = [encode_prompt(tokenizer, task.render(example)) for example in examples]
    for example, ids in zip(examples, encoded, strict=True):
        if not ids:
            raise TaskError(f"{example.uid}: its prompt has no tokens; does the model bring its tokenizer?")
        if len(ids) > max_prompt_tokens:
            raise TaskError(
                f"{example.uid}: its prompt has {len(ids)} tokens, allowed are {max_prompt_tokens}; "
                f"raise task.max_prompt_tokens or remove the row"
            )
    return encoded


def response_decoder(tokenizer: PreTrainedTokenizerBase) -> Callable[[Sequence[int]], str]:
    """Response token ids to text, without special tokens."""

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    return decode
