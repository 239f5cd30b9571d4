"""vLLM engine in the training process, colocated, on a copy of weights or adapters that updates sync.

Each process of the trainer drives an engine of its own on its own device (vLLM calls this an external
launcher): no further process is started, weights are handed over by reference, and the ranks sample
independently. Tensor-parallel groups of neighbouring ranks share one copy of the weights and their prompts.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor

from pipo.distributed.collectives import world
from pipo.distributed.seeds import numbered_seed
from pipo.errors import ConfigError
from pipo.lm.adapters import write_adapter
from pipo.lm.options import Lora
from pipo.lm.policy import Policy
from pipo.lm.sharding import whole_parameters
from pipo.records.options import Count, Options, Positive, Precision, Share
from pipo.records.rollouts import Completions, TokenIds, pad_rows
from pipo.rollout.engine import EngineFailed, OnFinished
from pipo.rollout.options import SamplingParams
from pipo.rollout.vllm_architecture import architecture_folder
from pipo.rollout.vllm_process import join_process_group, quiet_vllm, untouched_process

if TYPE_CHECKING:
    from vllm import LLM, CompletionOutput, RequestOutput
    from vllm import SamplingParams as Request
    from vllm.lora.request import LoRARequest

log = logging.getLogger(__name__)


class VllmConfig(Options):
    """Options of the vLLM engine."""

    dtype: Precision
    """Dtype of the engine's copy of the weights and of its activations."""
    max_num_seqs: Count
    """Responses decoded at a time; the others wait, and take the place of finished ones."""
    max_model_len: Annotated[int, Field(ge=2)] | None
    """Most tokens of a prompt and its response; None for as many as the model has positions."""
    gpu_memory_utilization: Share
    """Share of a GPU's memory for the engine's weights and key-value cache."""
    cpu_kv_cache_gib: Positive
    """Size of the key-value cache on a CPU."""
    enforce_eager: bool
    """Do without CUDA graphs and compilation; on a CPU vLLM always does."""
    tensor_parallel_size: Count
    """Neighbouring ranks that share one copy of the weights."""
    sleep: bool
    """Give the memory back while the trainer works; on a CPU there is nothing to give."""


def vllm_engines(config: VllmConfig) -> Callable[[Policy], VllmEngine]:
    """What makes the engine of a policy.

    Raises:
        ConfigError: when vLLM is not installed; asked here, before a model is loaded.
    """
    # The build for CPUs is a distribution of another name, but the same package.
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "vLLM is not installed: pip install 'pipo[vllm]' on a machine with a GPU; for a CPU see "
            "docs/rollout.md"
        )
    return partial(VllmEngine, config=config)


class VllmEngine:
    """A vLLM engine beside a policy.

    Nothing is built before the first ``wake`` or ``generate``, so that the trainer's process group is there
    and a checkpoint has been read: the engine begins with the weights that the policy has then.

    Args:
        policy: says which architecture, and gives the weights. With adapters these alone move, and the engine
            reads the model that they are on from its files.
        config: see :class:`VllmConfig`.
    """

    shares_weights = False

    def __init__(self, policy: Policy, config: VllmConfig) -> None:
        self.policy, self.config = policy, config
        self._llm: LLM | None = None
        self._owns_group = False
        self._asleep = False
        #: Whether the engine's weights are lost or put away, or were never given.
        self._empty = True
        #: Under which name and number vLLM knows the newest adapters; None without adapters.
        self._adapters: LoRARequest | None = None

    # ------------------------------------------------------------------ life

    def wake(self) -> None:
        """Build the engine, or take memory again; see :class:`~pipo.rollout.engine.RolloutEngine`."""
        if self._llm is None:
            self._llm = self._build()
        if self._empty:
            self.sync_weights(self.policy.named_parameters())
        if self._asleep:
            with self._at_work("waking up"):
                self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False

    def sleep(self) -> None:
        """Drop weights and cache on a GPU: the next update brings other weights anyway.

        Weights under adapters stay what they are, and go to main memory.
        """
        if self._llm is None or self._asleep or not self._llm.model_config.enable_sleep_mode:
            return
        with self._at_work("going to sleep"):
            self._llm.sleep(level=2 if self.policy.lora is None else 1)
        self._asleep = self._empty = True

    def close(self) -> None:
        """Free the engine, and the process group when it is the engine's own."""
        if self._llm is None:
            return
        llm, self._llm = self._llm, None
        with untouched_process(self.policy.device):
            # Collecting an engine, now or at some later time, would also end the default process group,
            # whoever made that and whoever uses it by then.
            llm.llm_engine.engine_core._finalizer.detach()
            llm.llm_engine.model_executor.shutdown()
            _leave_process_group(self._owns_group)

    def _build(self) -> LLM:
        size, ranks = self.config.tensor_parallel_size, world()[1]
        if ranks % size:
            raise ConfigError(f"tensor_parallel_size={size} does not divide the {ranks} processes")
        self._owns_group = join_process_group()
        quiet_vllm()
        options, lora = _engine_options(self.config), self.policy.lora
        if lora is None:
            # Without weights: a configuration is all that vLLM needs to build the network.
            model = str(architecture_folder(self.policy))
        else:
            model = str(self.policy.model.name_or_path)
            options |= _adapter_options(lora)
        with untouched_process(self.policy.device):
            from vllm import LLM
            from vllm.exceptions import VLLMError

            try:
                return LLM(model, **options)
            except (ValueError, VLLMError) as error:
                _leave_process_group(self._owns_group)
                raise ConfigError(f"rollout.engine.config: vLLM refuses: {_short(error)}") from error
            except RuntimeError as error:
                _leave_process_group(self._owns_group)
                raise _failed("starting", error) from error

    @contextmanager
    def _at_work(self, doing: str) -> Iterator[None]:
        """A call of vLLM: the process stays as it was, and a failure becomes one clear error."""
        from vllm.exceptions import VLLMClientError, VLLMError

        with untouched_process(self.policy.device):
            try:
                yield
            except VLLMClientError as error:
                raise ConfigError(f"rollout.engine.config: vLLM refuses: {_short(error)}") from error
            except (RuntimeError, VLLMError) as error:
                raise _failed(doing, error) from error

    # ------------------------------------------------------------------ weights

    def sync_weights(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the weights one parameter at a time, and forget what was computed with the old ones.

        Of a policy with adapters, the adapters alone.
        """
        if self._llm is None:
            return  # it will begin with the policy's weights of then
        with self._at_work("taking over the weights"):
            if self._asleep and self._empty:
                torch.cuda.empty_cache()  # what the trainer's allocator only keeps
                self._llm.wake_up(tags=["weights"])
            if self.policy.lora is None:
                stream = whole_parameters(parameters, getattr(torch, self.config.dtype))
                named = ((name.removeprefix("model."), value) for name, value in stream)
                self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": named})
                self._llm.apply_model(_repack_tied_head)
            else:
                self._adapters = self._sent_adapters(self._llm, parameters)
            self._llm.reset_prefix_cache()
        self._empty = False

    def _sent_adapters(self, llm: LLM, parameters: Iterable[tuple[str, Tensor]]) -> LoRARequest:
        """Hand the adapters over as a folder, which is how vLLM takes them; those before are dropped."""
        from vllm.lora.request import LoRARequest

        trained = ((name, value) for name, value in parameters if value.requires_grad)
        whole = {n.removeprefix("model."): value for n, value in whole_parameters(trained, torch.float32)}
        number = 1 if self._adapters is None else self._adapters.lora_int_id + 1
        with tempfile.TemporaryDirectory() as folder:
            write_adapter(self.policy.model, whole, Path(folder))
            request = LoRARequest(f"adapters-{number}", number, folder)
            try:
                llm.llm_engine.add_lora(request)
            except ValueError as error:
                raise ConfigError(f"model.lora: vLLM refuses the adapters: {_short(error)}") from error
        return request

    # ------------------------------------------------------------------ sampling

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
        """Sample ``group_size`` responses per prompt; see :class:`~pipo.rollout.engine.RolloutEngine`.

        Prompts are read once for all of their responses, and what was read for an earlier turn is found again
        in vLLM's own prefix cache, block by block.
        """
        self.wake()
        wanted = [(ids, numbered_seed(seed, index) >> 1) for index, ids in enumerate(prompts)]
        start = 0
        if self.config.tensor_parallel_size > 1:
            wanted, start = _of_the_group(wanted)
        # Greedy responses are all alike, and vLLM makes only one of them.
        drawn = 1 if sampling.temperature == 0 else group_size
        rows: dict[int, CompletionOutput] = {}
        for index, group in self._groups(wanted, drawn, sampling):
            if not start <= index < start + len(prompts):
                continue  # another rank's
            first = (index - start) * group_size
            for row, one in enumerate(group * (group_size // drawn), start=first):
                rows[row] = one
                if on_finished is not None:
                    on_finished(row, tuple(one.token_ids))
        return _completions([rows[row] for row in range(len(prompts) * group_size)])

    def _groups(
        self, wanted: Sequence[tuple[TokenIds, int]], drawn: int, sampling: SamplingParams
    ) -> Iterator[tuple[int, list[CompletionOutput]]]:
        """Responses to prompts with their seeds: each prompt's place and its responses, as they finish.

        What is done with them happens outside of the engine's call, in a process as the trainer knows it.
        """
        assert self._llm is not None
        # Compiling a small function of the sampler anew for every size of a batch takes longer than sampling.
        eager = self._llm.model_config.enforce_eager
        engine = self._llm.llm_engine
        with self._at_work("sampling"):
            from vllm import TokensPrompt

            names = self._llm.enqueue(
                [TokensPrompt(prompt_token_ids=list(ids)) for ids, _ in wanted],
                [_request(sampling, drawn, seed) for _, seed in wanted],
                lora_request=self._adapters,
                use_tqdm=False,
            )
        # A request's outputs carry the number that it was given, without what the engine appends to it.
        places = {name.partition("-")[0]: place for place, name in enumerate(names)}
        while engine.has_unfinished_requests():
            over: list[RequestOutput] = []
            with (
                self._at_work("sampling"),
                torch.compiler.set_stance("force_eager") if eager else nullcontext(),
            ):
                while not over and engine.has_unfinished_requests():
                    over = [output for output in engine.step() if output.finished]
            for output in over:
                yield places[output.request_id], sorted(output.outputs, key=lambda one: one.index)


def _engine_options(config: VllmConfig) -> dict[str, Any]:
    """The engine's own names for what the configuration says and what this engine always needs."""
    from vllm.platforms import current_platform

    cpu = current_platform.is_cpu()
    memory: dict[str, Any] = {"gpu_memory_utilization": config.gpu_memory_utilization}
    if cpu:
        memory = {
            "kv_cache_memory_bytes": round(config.cpu_kv_cache_gib * 2**30),
            # After a part of a prompt vLLM winds the request's generator back, which a CPU's cannot do.
            "enable_chunked_prefill": False,
        }
    return memory | {
        "dtype": config.dtype,
        "max_num_seqs": config.max_num_seqs,
        "max_model_len": config.max_model_len,
        "enforce_eager": config.enforce_eager or cpu,
        "tensor_parallel_size": config.tensor_parallel_size,
        "enable_sleep_mode": config.sleep and current_platform.is_sleep_mode_available(),
        "enable_prefix_caching": True,
        "distributed_executor_backend": "external_launcher",
        "load_format": "dummy",  # the weights come from the trainer, never from files
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # none of the model's own sampling defaults
        "logprobs_mode": "processed_logprobs",  # at the temperature of sampling
        "disable_log_stats": True,
        "seed": 0,  # every request brings its own; ranks of a tensor-parallel group must agree
    }


def _adapter_options(lora: Lora) -> dict[str, Any]:
    """What the engine needs to be told for adapters on the weights that are in the model's files."""
    from vllm.config.lora import MaxLoRARanks

    assert lora.rank is not None
    # It has room for some ranks only; of none that is large enough it says so itself.
    room = min((rank for rank in get_args(MaxLoRARanks) if rank >= lora.rank), default=lora.rank)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": room, "load_format": "auto"}


def _request(sampling: SamplingParams, count: int, seed: int) -> Request:
    """Sampling parameters as vLLM has them; its n-th response draws from ``seed + n``."""
    from vllm import SamplingParams as Request
    from vllm.sampling_params import RequestOutputKind

    return Request(
        n=count,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=seed,
        max_tokens=sampling.max_response_tokens,
        stop_token_ids=sorted(sampling.stop_token_ids),
        ignore_eos=True,  # the list of stop tokens is complete
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _completions(rows: Sequence[CompletionOutput]) -> Completions:
    """Responses as padded tensors."""
    ids, mask = pad_rows([list(row.token_ids) for row in rows])
    logprobs = torch.zeros(mask.shape)
    logprobs[mask] = torch.tensor([value for row in rows for value in row.logprobs.logprobs])
    finished = torch.tensor([row.finish_reason == "stop" for row in rows], dtype=torch.bool)
    return Completions(
        response_ids=ids, response_mask=mask, sampled=mask, logprobs=logprobs, finished=finished
    )


def _of_the_group(wanted: list[tuple[TokenIds, int]]) -> tuple[list[tuple[TokenIds, int]], int]:
    """The prompts of all ranks that share the weights, and where this rank's begin: they sample together."""
    from vllm.distributed.parallel_state import get_tp_group

    group = get_tp_group()
    parts: list[list[tuple[TokenIds, int]]] = [[]] * group.world_size
    dist.all_gather_object(parts, wanted, group=group.cpu_group)
    return [one for part in parts for one in part], sum(len(part) for part in parts[: group.rank_in_group])


def _leave_process_group(owned: bool) -> None:
    """Give up vLLM's groups of processes, and the default group when the engine made it."""
    from vllm.distributed import parallel_state

    if owned:
        parallel_state.cleanup_dist_env_and_memory()
    elif parallel_state._WORLD is not None:
        parallel_state.destroy_model_parallel()
        parallel_state._WORLD.destroy()
        parallel_state._WORLD = None


def _repack_tied_head(model: torch.nn.Module) -> None:
    """On a CPU vLLM samples from a repacked copy of the output head, which an update leaves behind.

    A head that is tied to the embeddings has no weights of its own in the stream, so vLLM does not see it
    change. On a GPU both are the same tensor, and there is no copy.
    """
    head = getattr(model, "lm_head", None)
    embeddings = getattr(getattr(model, "model", None), "embed_tokens", None)
    if head is None or embeddings is None or head is embeddings or head.weight is not embeddings.weight:
        return
    if hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


def _failed(doing: str, error: Exception) -> EngineFailed:
    log.info("vLLM failed while %s", doing, exc_info=error)
    return EngineFailed(f"the vLLM engine failed while {doing}: {type(error).__name__}: {_short(error)}")


def _short(error: Exception) -> str:
    """The message on one line."""
    return " ".join(str(error).split())[:400]
