from enum import Enum

class RequestOutputKind(Enum):
    FINAL_ONLY = 2

class SamplingParams:
    def __init__(
        self,
        *,
        n: int,
        temperature: float,
        top_p: float,
        top_k: int,
        min_p: float,
        seed: int,
        max_tokens: int,
        stop_token_ids: list[int],
        ignore_eos: bool,
        logprobs: int,
        flat_logprobs: bool,
        detokenize: bool,
        output_kind: RequestOutputKind,
    ) -> None: ...
