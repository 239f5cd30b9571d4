"""The policy: a causal language model with log-probabilities for updates and logits for sampling."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.cache_utils import Cache

from pipo.errors import ModelError, reason
from pipo.functional.divergence import DistillationForm
from pipo.lm.attention import ATTENTION_NAME, check_packing, named, packed_hidden, rows_alone
from pipo.lm.cache import PreallocatedCache
from pipo.lm.capabilities import check_decoding
from pipo.lm.decoding import DecodeStep, plain_decoder
from pipo.lm.distillation import blockwise_divergence
from pipo.lm.generation import declared_generation, declared_stops
from pipo.lm.library_names import cache_argument, checkpoint_activations
from pipo.lm.logprobs import cut_logprobs, token_logprobs
from pipo.lm.model_files import (
    check_finite,
    check_tensors,
    check_weight_files,
    foreign,
    read_config,
    read_tokenizer,
)
from pipo.lm.options import Lora
from pipo.lm.packing import PackedRows
from pipo.records.cut import Cut


@dataclass(frozen=True, kw_only=True)
class DistillationTarget:
    """A teacher's view of the sampled tokens."""

    hidden: Tensor
    """[M, width], the teacher's final hidden states, without gradient."""
    weight: Tensor | None
    """[V, width], the teacher's output head; None for that of the policy that learns."""
    form: DistillationForm
    """Divergence that draws the student to the teacher."""


class Policy(nn.Module):
    """A Hugging Face causal language model behind the two calls that training needs.

    Args:
        model: a decoder-only model with an output head without bias.

    Attributes:
        compute_dtype: dtype of matrix products, for sampling, scoring and updates alike; None for that of
            the weights.
        computes_on: device to which the weights come when they are used, if they live on another; None for
            the one they are on.
        lora: the adapters that are on the model; None for none.

    Raises:
        ModelError: when the model does something to its attention or logits that this class would undo.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.compute_dtype: torch.dtype | None = None
        self.computes_on: torch.device | None = None
        self.lora: Lora | None = None
        config = model.config.get_text_config()
        head = model.get_output_embeddings()
        name = named(model)
        if model.base_model is model:
            raise ModelError(f"{name}: a model whose layers can be called without its head is required")
        if not isinstance(head, nn.Linear) or head.bias is not None:
            raise ModelError(f"{name}: an output head that is a linear layer without bias is required")
        # What a model does beyond a plain head and full attention, this class would silently undo.
        for key in ("final_logit_softcapping", "attn_logit_softcapping", "logits_scaling", "logit_scale"):
            if getattr(config, key, None) not in (None, 1, 1.0):
                raise ModelError(f"{name}: models with {key} are not supported")
        windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
        if windowed or "sliding_attention" in (getattr(config, "layer_types", None) or []):
            raise ModelError(f"{name}: models with sliding-window attention are not supported")

    @property
    def head(self) -> nn.Linear:
        """The output head; a property, because the model registers it already."""
        return cast(nn.Linear, self.model.get_output_embeddings())

    @property
    def backbone(self) -> PreTrainedModel:
        """The model without its head."""
        return cast(PreTrainedModel, self.model.base_model)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.computes_on or self.head.weight.device

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Compute in ``compute_dtype``; never held over an optimiser step, as it keeps casts of weights."""
        return autocast(self.device, self.compute_dtype)

    def forward(
        self,
        rows: PackedRows,
        temperature: float,
        target: DistillationTarget | None = None,
        *,
        and_logprobs: bool = False,
    ) -> Tensor:
        """Log-probabilities of the sampled tokens, or their divergence from a teacher.

        Args:
            rows: prompts and M sampled tokens.
            temperature: sampling temperature that defines the policy.
            target: a teacher on the same sampled tokens; None for log-probabilities.
            and_logprobs: with a target, give the log-probabilities too, without gradient.

        Returns:
            float32 [M], or [2, M]: divergences and log-probabilities.
        """
        with self.precision():
            hidden, weight = self.response_hidden(rows), self.head.weight
            if target is None:
                return token_logprobs(hidden, weight, rows.targets, temperature, rows.kept)
            taught = weight.detach().to(hidden.dtype) if target.weight is None else target.weight
            divergence = blockwise_divergence(hidden, weight, target.hidden, taught, target.form, temperature)
            if not and_logprobs:
                return divergence
            with torch.no_grad():
                logprobs = token_logprobs(hidden, weight, rows.targets, temperature, rows.kept)
            return torch.stack([divergence, logprobs])

    def response_hidden(self, rows: PackedRows) -> Tensor:
        """Final hidden states that predict the sampled tokens, [M, width], in the dtype of products.

        Cast here, because autocast does not reach the backward passes that apply the head again.
        """
        return packed_hidden(self.backbone, rows).to(self.compute_dtype or self.head.weight.dtype)

    @torch.no_grad()
    def cut_logprobs(self, rows: PackedRows, temperature: float, cut: Cut) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the sampled tokens among those that a cut keeps, and which these are.

        Returns:
            See :func:`~pipo.lm.logprobs.cut_logprobs`.
        """
        with self.precision():
            hidden = self.response_hidden(rows)
            return cut_logprobs(hidden, self.head.weight, rows.targets, temperature, cut)

    @torch.no_grad()
    def distillation_target(self, rows: PackedRows, form: DistillationForm) -> DistillationTarget:
        """This model as a teacher of the sampled tokens."""
        with self.precision():
            hidden = self.response_hidden(rows)
        return DistillationTarget(hidden=hidden, weight=self.head.weight.to(hidden.dtype), form=form)

    def next_token_logits(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        cache: Cache,
        attention_mask: Tensor | None,
        last: Tensor | None = None,
    ) -> Tensor:
        """Extend the cache by ``input_ids`` and return the logits that follow.

        Args:
            input_ids: int64 [n, T].
            position_ids: int64 [n, T].
            cache: key-value cache, updated in place.
            attention_mask: bool [n, 1, T, keys], or None for causal attention.
            last: int64 [n], index of the last real token of each row; None when T is 1.

        Returns:
            float32 [n, V].
        """
        with self.precision():
            hidden = self.model.base_model(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=attention_mask,
                use_cache=True,
                **{cache_argument(type(self.backbone)): cache},
            ).last_hidden_state
            if last is None:
                return self.head(hidden[:, 0]).float()
            return self.head(hidden[torch.arange(len(last), device=last.device), last]).float()

    def decoder(self, cache: PreallocatedCache, positions: int) -> DecodeStep:
        """What decodes one token per row after what is in a cache, within :meth:`precision`.

        Args:
            cache: extended in place at every step.
            positions: positions that occur are below.
        """
        written_out = plain_decoder(self.backbone, self.head, cache, positions)
        if written_out is not None:
            return written_out

        def step(tokens: Tensor, at: Tensor, visible: Tensor | None) -> Tensor:
            return self.next_token_logits(tokens[:, None], at[:, None], cache, visible)

        return step


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    """Matrix products in a dtype other than the weights'; None for the weights' own."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a Hugging Face folder or hub id; it must name an end-of-sequence token.

    Raises:
        ModelError: there is no model, no tokenizer, or one of them is damaged.
    """
    read_config(path)
    tokenizer = read_tokenizer(path)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"model.path={path}: the tokenizer names no end-of-sequence token")
    return tokenizer


def most_positions(path: str) -> int | None:
    """Tokens of a prompt and its response that a model can place; None where it does not say."""
    config = read_config(path).get_text_config()
    declared = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    kind, trained = rope.get("rope_type"), rope.get("original_max_position_embeddings") or declared
    if kind == "longrope":
        # Beyond (and with "dynamic" beyond what is declared) rows depend on the longest one beside them.
        return trained
    if kind in ("linear", "yarn") and trained and rope.get("factor"):
        return max(declared or 0, int(trained * rope["factor"]))
    return declared


def load_policy(path: str, dtype: str, gradient_checkpointing: bool = False) -> Policy:
    """Load a causal language model for training and sampling, on the CPU.

    Args:
        path: a Hugging Face folder or a hub id.
        dtype: ``float32`` or ``bfloat16``: the dtype of the weights.
        gradient_checkpointing: trade compute for activation memory.

    Raises:
        ModelError: when the model is of an unsupported kind.
    """
    config = read_config(path)
    for name, value in vars(config.get_text_config()).items():
        # Dropout would make the updated policy another one than the policy that sampled.
        if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
            setattr(config.get_text_config(), name, 0.0)
    generation = declared_generation(path)
    check_weight_files(path)
    # The library takes whatever device is the default for an order to load to it, which needs accelerate.
    with foreign(f"model.path={path}: the model cannot be loaded"), _own_attention(path), torch.device("cpu"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation=ATTENTION_NAME,
            generation_config=GenerationConfig(),  # its own reader fails where fields contradict
            ignore_mismatched_sizes=True,  # to be named below
            output_loading_info=True,
            trust_remote_code=False,
        )
    model, loading = loaded
    check_tensors(path, loading)
    check_finite(f"model.path={path}", model)
    if model.can_generate():
        model.generation_config = generation
    if gradient_checkpointing:
        checkpoint_activations(model)
    policy = Policy(model)
    # On the CPU, where the weights are, and without the modes of whoever calls, which see every operation.
    with torch._C.DisableTorchFunction():
        alone = rows_alone(policy.backbone)
        check_packing(policy.backbone, alone)
        check_decoding(policy.backbone, alone)
    return policy.train()


@contextlib.contextmanager
def _own_attention(path: str) -> Iterator[None]:
    """Architectures that know their own kinds of attention only look ours up, and do not find it."""
    try:
        yield
    except KeyError as error:
        if error.args != (ATTENTION_NAME,):
            raise
        raise ModelError(
            f"model.path={path}: models of its kind have an attention of their own that cannot be replaced; "
            "they are not supported"
        ) from error


def load_weights(policy: Policy, path: Path) -> None:
    """Replace a policy's weights, or its adapters, by those in a training checkpoint: a file or shards.

    Raises:
        ModelError: the checkpoint is of another model, or its weights are no numbers.
    """
    prefix, other = "policy.", f"{path}: not the weights of the model that it is to be put into"
    if path.is_dir():
        # Reads into the given tensors, from the shards of however many processes, without any process group.
        wanted = {f"{prefix}{name}": tensor for name, tensor in policy.state_dict().items()}
        try:
            load_shards({"state_dict": wanted}, checkpoint_id=path, no_dist=True)
        except CheckpointException as error:
            raise ModelError(f"{other} ({reason(next(iter(error.failures.values()))[0])})") from error
    else:
        # Plain data only: a file that would run code when it is unpickled is refused.
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"].items()
        with foreign(other):
            policy.load_state_dict({k.removeprefix(prefix): v for k, v in state if k.startswith(prefix)})
    check_finite(str(path), policy)


def stop_token_ids(path: str, tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that end a response: the tokenizer's and those that the model's folder names."""
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    return frozenset({end} | declared_stops(path))
