# What pipo uses of vLLM, so that types are checked where vLLM is not installed.
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams as SamplingParams

class TokensPrompt(dict[str, Any]):
    def __init__(self, *, prompt_token_ids: list[int]) -> None: ...

class FlatLogprobs:
    logprobs: list[float]

class CompletionOutput:
    index: int
    token_ids: Sequence[int]
    logprobs: FlatLogprobs
    finish_reason: str | None

class RequestOutput:
    request_id: str
    outputs: list[CompletionOutput]

class ModelConfig:
    enable_sleep_mode: bool
    enforce_eager: bool

class LLM:
    model_config: ModelConfig
    llm_engine: Any
    def __init__(self, model: str, **options: Any) -> None: ...
    def enqueue(
        self,
        prompts: Sequence[TokensPrompt],
        sampling_params: Sequence[SamplingParams],
        *,
        lora_request: LoRARequest | None,
        use_tqdm: bool,
    ) -> list[str]: ...
    def collective_rpc(self, method: str, *, kwargs: dict[str, Any]) -> list[Any]: ...
    def apply_model(self, func: Callable[[nn.Module], Any]) -> list[Any]: ...
    def reset_prefix_cache(self) -> bool: ...
    def sleep(self, level: int) -> None: ...
    def wake_up(self, tags: list[str]) -> bool: ...
