"""One step: parts add up to the batch, small types learn nearly the same, a compiled network the same, nothing is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from support.easy_log import TINY, settings
from tsa.data.store.store import EventStore
from tsa.errors import ConfigError
from tsa.model import TSANetwork
from tsa.model.config import PRESETS
from tsa.training import train_step
from tsa.training.config import TrainingConfig
from tsa.training.data.loader import EpochLoader, Microbatch
from tsa.training.data.sampler import Sampler
from tsa.training.distributed import DistributedContext
from tsa.training.precision import Precision
from tsa.training.train_model import network_settings
from tsa.training.train_step import NotFiniteError, TrainStep, freeze_parameters_without_grad, running_average

ALONE = DistributedContext(torch.device("cpu"))
pytestmark = pytest.mark.usefixtures("one_thread")


def made(store: EventStore, config: TrainingConfig, preset: str = "default", **model: Any) -> TrainStep:
    torch.manual_seed(config.seed)
    network = TSANetwork(network_settings(store, preset, {**TINY, "dropout": 0.0, "feature_dropout": 0.0, **model}))
    return TrainStep(network, config, ALONE, steps_per_epoch=50)


def batches(store: EventStore, config: TrainingConfig) -> list[list[Microbatch]]:
    drawn = Sampler(store, store.labelled("train"), config).epoch(1, lambda rows: np.zeros(len(rows), np.float32))
    return list(EpochLoader(store, config, ALONE).steps(drawn))


def losses(store: EventStore, config: TrainingConfig, steps: int = 8, **model: Any) -> list[float]:
    one = made(store, config, **model)
    return [one.step(parts, 1).loss for parts in batches(store, config)[:steps]]


@pytest.mark.parametrize("accumulate", [2, 3, 7])
def test_parts_add_up_to_the_batch(easy_store: EventStore, accumulate: int) -> None:
    whole = losses(easy_store, settings())
    assert whole[-1] < 0.8 * whole[0]
    np.testing.assert_allclose(losses(easy_store, settings(gradient_accumulation_steps=accumulate)), whole, rtol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_bf16_learns_nearly_the_same(easy_store: EventStore, preset: str) -> None:
    """With dropout too: the forward and backward of every preset run in it; weights and losses stay float32."""
    exact, small = (losses(easy_store, settings(precision=name), preset=preset) for name in ("float32", "bf16"))
    np.testing.assert_allclose(small, exact, rtol=0.05)
    assert small != exact
    one = made(easy_store, settings(precision="bf16"), preset, dropout=0.1)
    for parts in batches(easy_store, settings())[:3]:
        assert np.isfinite(one.step(parts, 1).loss)
    assert {value.dtype for value in one.network.parameters()} == {torch.float32}


def test_the_balance_of_experts_is_trained_on(easy_store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a step is that of the payments and of the experts' balance, weighted."""
    monkeypatch.setattr(TSANetwork, "auxiliary_loss", lambda network: network.table.weight.new_tensor(10.0))
    steps = batches(easy_store, settings())[:1]
    heavy = [made(easy_store, settings()).step(parts, 1).loss for parts in steps]
    monkeypatch.undo()
    light = [made(easy_store, settings()).step(parts, 1).loss for parts in steps]
    np.testing.assert_allclose(heavy, np.array(light) + 10.0, rtol=1e-6)
    one = made(easy_store, settings(), n_experts=2, experts_in=["feature"])
    gates = [value for name, value in one.network.named_parameters() if "w_gating" in name]
    before = [value.detach().clone() for value in gates]
    for parts in batches(easy_store, settings())[:3]:
        one.step(parts, 1)
    assert gates
    assert all((a != b).any() for a, b in zip(before, gates, strict=True))


def test_precision_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert Precision("auto", cpu).name == "float32"
    with pytest.raises(ConfigError, match=r"training\.precision: fp16 needs a GPU, bf16 does not [(]got "):
        Precision("fp16", cpu)
    for supported, expected in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda found=supported, **_: found)
        monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: (device, enabled))
        found = Precision("auto", gpu)
        assert (found.name, found.scaler) == (expected, ("cuda", expected == "fp16"))


def test_a_compiled_network_learns_the_same(easy_store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as torch.compile traces it, and then run by PyTorch itself: compiling takes longer than a test may."""
    calls = []

    def traced(network: torch.nn.Module, **options: Any) -> Any:
        calls.append(options)
        return torch._dynamo.optimize("eager", **options)(network)

    plain = losses(easy_store, settings(), steps=3)
    monkeypatch.setattr(torch, "compile", traced)
    np.testing.assert_allclose(losses(easy_store, settings(compile=True), steps=3), plain, rtol=1e-5)
    assert calls == [{"dynamic": True}]


def test_what_is_not_finite_moves_no_weight(easy_store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    one, parts = made(easy_store, settings()), batches(easy_store, settings())
    one.step(parts[0], 1)
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    original = train_step.TrainStep.loss
    for factor in (float("nan"), float("inf")):
        monkeypatch.setattr(TrainStep, "loss", lambda self, *rest, by=factor: original(self, *rest) * by)
        with pytest.raises(NotFiniteError, match=r"loss=(nan|inf), gradient norm=nan at rate 0\.0"):
            one.step(parts[1], 1)
    assert all(torch.equal(value, before[name]) for name, value in one.network.state_dict().items())


def test_it_goes_on_from_its_state_to_the_bit(easy_store: EventStore) -> None:
    config = settings()
    whole, first, second = (made(easy_store, config, dropout=0.0) for _ in range(3))
    every = batches(easy_store, config)
    for parts in every[:6]:
        whole.step(parts, 1)
    for parts in every[:3]:
        first.step(parts, 1)
    second.load_state_dict(first.state_dict())
    for parts in every[3:6]:
        second.step(parts, 1)
    for left, right in ((whole.network, second.network), (whole.ema_network, second.ema_network)):
        assert all(map(torch.equal, left.state_dict().values(), right.state_dict().values()))


def test_wishes_are_handed_on(easy_store: EventStore) -> None:
    one = made(easy_store, settings())
    assert one.step(batches(easy_store, settings())[0], 1, (1.0, 0.0)).flags == [1.0, 0.0]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_running_average(decay: float) -> None:
    """The share of a step is that of the last half of all so far, until the decay keeps it from falling further."""
    values, average, update = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0], [torch.zeros(1)], running_average(decay)
    expected = 0.0
    for seen, value in enumerate(values):
        update(average, [torch.tensor([value])], torch.tensor(seen))
        expected += (value - expected) * max(1 - decay, 2 / (2 + seen))
        assert average[0].item() == pytest.approx(expected)
    if decay == 0.0:
        assert average[0].item() == values[-1]


def test_a_schedule_free_optimiser_is_validated_at_its_average(easy_store: EventStore) -> None:
    config = settings(optimizer="schedule_free_adamw", lr_schedule="constant", ema_decay=0.0)
    one = made(easy_store, config)
    for parts in batches(easy_store, config)[:4]:
        one.step(parts, 1)
    learned = {name: value.clone() for name, value in one.network.state_dict().items()}
    with one.evaluation_mode():
        kept = {name: value.clone() for name, value in one.ema_network.state_dict().items()}
    assert all(torch.equal(value, learned[name]) for name, value in one.network.state_dict().items())
    assert any(not torch.equal(value, learned[name]) for name, value in kept.items())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("experts", [0, 4])
def test_unused_weights_are_those_without_a_gradient(easy_store: EventStore, preset: str, experts: int) -> None:
    model = {"n_experts": experts} if preset != "default" else {}
    one = made(easy_store, settings(), preset, **model)
    one.step(batches(easy_store, settings())[0], 1)
    without = [name for name, value in one.network.named_parameters() if value.grad is None]
    other = made(easy_store, settings(), preset, **model)
    before = torch.get_rng_state()
    assert freeze_parameters_without_grad(other.network) == without
    assert torch.equal(before, torch.get_rng_state())
    for name, value in other.network.named_parameters():
        assert value.requires_grad == (name not in without)
