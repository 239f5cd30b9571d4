"""What the trainer asks of an engine that is not the policy itself, shown with a local one that pretends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipo.config.reading import read
from pipo.config.tree import TrainConfig
from pipo.errors import ConfigError
from pipo.records.correction import ImportanceCorrection
from pipo.rollout.local import LocalEngine
from tests import toy
from tests.built import built


class PretendedEngine(LocalEngine):
    """Samples like the local engine, but says other log-probabilities, and keeps what it is asked."""

    shares_weights = False
    #: Added to the log-probabilities that it reports.
    gap = 0.0

    def __init__(self, policy) -> None:
        super().__init__(policy, toy.ENGINE)
        self.asked: list[str] = []
        self.names: list[str] = []

    def generate(self, prompts, group_size, sampling, seed, on_finished=None, **_):
        self.asked.append("generate")
        got = super().generate(prompts, group_size, sampling, seed, on_finished)
        return replace(got, logprobs=(got.logprobs + self.gap) * got.response_mask)

    def sync_weights(self, parameters) -> None:
        self.asked.append("sync")
        self.names = [name for name, _ in parameters]

    def sleep(self) -> None:
        self.asked.append("sleep")

    def wake(self) -> None:
        self.asked.append("wake")

    def close(self) -> None:
        self.asked.append("close")


def train(correction: ImportanceCorrection | None = None, gap: float = 0.0, engine=PretendedEngine):
    record = toy.Record()
    module = toy.module(importance=correction)

    def make(policy):
        made = engine(policy) if engine is PretendedEngine else engine(policy, toy.ENGINE)
        made.gap = gap
        return made

    module._make_engine = make
    toy.fit(module, [toy.pipo(window=2), record], 4)
    return module, record


def test_memory_is_given_back_between_sampling_and_the_update():
    module, _ = train()
    assert module.engine.asked == ["generate", "sleep", "sync", "wake"] * 4 + ["close"]
    assert module.engine.names == [name for name, _ in module.policy.named_parameters()]
    assert len(module.engine.names) > 20


@pytest.mark.parametrize("level", ["none", "token", "sequence"])
def test_with_the_policys_own_log_probabilities_nothing_changes(level):
    """Bit for bit: the local engine is the policy, so that every weight is exactly 1."""
    plain, _ = train(engine=LocalEngine)
    corrected, record = train(ImportanceCorrection(level=level, cap=1.5), engine=LocalEngine)
    for name, value in plain.state_dict().items():
        assert torch.equal(corrected.state_dict()[name], value), name
    assert all(row["rollout/logprob_diff"] == row["rollout/logprob_diff_max"] == 0 for row in record.metrics)
    if level != "none":
        assert all(row["rollout/importance_weight"] == 1 for row in record.metrics)


def test_the_old_log_probabilities_are_the_trainers_whatever_the_sampler_says():
    """Its claims reach the metrics and the weights, never the ratio."""
    honest, _ = train()
    liar, record = train(gap=0.25)
    for name, value in honest.state_dict().items():
        assert torch.equal(liar.state_dict()[name], value), name
    for row in record.metrics:
        # A full pass and the cached steps of sampling differ by 1e-7.
        assert row["rollout/logprob_diff"] == pytest.approx(0.25, abs=1e-5)
        assert row["rollout/logprob_diff_max"] == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize("gap", [0.25, -0.25])
def test_advantages_and_attribution_carry_the_weight(gap):
    """One sampler and one seed: the first batch with a correction is that without, times exp(-gap)."""
    cap = 1.2
    _, plain = train(gap=gap)
    _, corrected = train(ImportanceCorrection(level="token", cap=cap), gap=gap)
    expected = min(cap, torch.tensor(-gap).exp().item())
    for name in ("advantages", "attribution"):
        before, after = getattr(plain.batches[0], name), getattr(corrected.batches[0], name)
        assert before.abs().max() > 0
        torch.testing.assert_close(after, before * expected, rtol=1e-5, atol=0)
    row = corrected.metrics[0]
    assert row["rollout/importance_weight"] == pytest.approx(expected, rel=1e-5)
    assert row["rollout/importance_capped"] == float(expected == cap)


def test_without_vllm_the_choice_is_one_line_that_says_what_to_install(compose_config, monkeypatch):
    monkeypatch.setattr("pipo.rollout.vllm.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'pipo\[vllm\]'"):
        built(compose_config("rollout=vllm"), "rollout.engine")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "max_num_seqs=0",
            r"max_num_seqs: expected a number >= 1, got 0$",
        ),
        (
            "gpu_memory_utilization=1.5",
            r"gpu_memory_utilization: expected a number <= 1, got 1\.5",
        ),
        (
            "cpu_kv_cache_gib=0.0",
            r"cpu_kv_cache_gib: expected a number above 0, got 0\.0",
        ),
        ("max_model_len=1", r"max_model_len: expected a number >= 2, got 1"),
        (
            "tensor_parallel_size=-1",
            r"tensor_parallel_size: expected a number >= 1, got -1",
        ),
        (
            "dtype=float16",
            r"dtype: expected .float32. or .bfloat16., got .float16.",
        ),
        ("nonsense=1", r"nonsense: unknown key"),
    ],
)
def test_a_wrong_option_of_the_engine_is_named(compose_config, override, words):
    plus = "+" if "nonsense" in override else ""
    with pytest.raises(ConfigError, match=rf"^rollout\.engine\.config\.{words}"):
        built(
            compose_config("rollout=vllm", f"{plus}rollout.engine.config.{override}"),
            "rollout.engine",
        )


@pytest.mark.parametrize("override", ["rollout.importance_cap=0.5", "rollout.importance_correction=row"])
def test_a_wrong_correction_is_named(compose_config, override):
    with pytest.raises(ConfigError, match=f"^{override.partition('=')[0]}: expected "):
        read(compose_config(override), TrainConfig)
