"""The losses: the golden values, plain formulas, gradients, extreme logits, settings."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from tsa.errors import ConfigError
from tsa.training import TrainingConfig, losses
from tsa.training.config import CHOICES, LOSSES
from tsa.training.losses import certainty_at, make_loss

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())
NAMES = {"factor": "loss_cycle_factor", "eps": "label_smoothing", "epochs": "epochs"}
"""How the golden file calls a parameter, where that is not its setting less `loss_`."""


def config(loss: str, **parameters: Any) -> TrainingConfig:
    return TrainingConfig.make({"loss": loss, **parameters})


def from_key(key: str) -> tuple[TrainingConfig, int, str]:
    """The settings, the epoch (there counted from 0) and the reduction that a golden key names."""
    name, *words = key.replace("(on logits[:,1], sum)", "sum").replace("cross_entropy_sum", "cross_entropy sum").split()
    values = {word.partition("=")[0]: float(word.partition("=")[2]) for word in words[:-1]}
    epoch = int(values.pop("epoch", 0))
    named = {NAMES.get(given, f"loss_{given}"): value for given, value in values.items()}
    loss = name.removesuffix("_single_label")
    return config(loss, **named), epoch + 1, words[-1]


@pytest.mark.parametrize("key", [key for key in GOLDEN if key not in ("logits", "target")])
def test_the_golden_values(key: str) -> None:
    made, epoch, reduction = from_key(key)
    logits, target = torch.tensor(GOLDEN["logits"]), torch.tensor(GOLDEN["target"])
    if made.loss == "asymmetric_multi_label":  # the golden probability is the sigmoid of the second logit alone
        logits = torch.stack([torch.zeros(len(logits)), logits[:, 1]], dim=1)
    each = make_loss(made)(logits, target, epoch)
    assert each.shape == target.shape
    assert float(getattr(each, reduction)()) == pytest.approx(GOLDEN[key], rel=1e-5)


def random_batch(classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(12, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (12,), generator=generator)


def plain_focus(p: Tensor, true: Tensor, pos: float, neg: float) -> Tensor:
    return torch.where(true, (1 - p) ** pos, p**neg)


def plain_multi_label(p: Tensor, true: Tensor, pos: float, neg: float, clip: float) -> Tensor:
    q = (p - clip).clamp(min=0)
    each = torch.where(true, (1 - p) ** pos * p.log(), q**neg * (1 - q).log())
    return -each[:, 1:].sum(1)


def plain(loss: str, c: TrainingConfig, logits: Tensor, target: Tensor, xi: float) -> Tensor:
    """Each formula as its paper writes it."""
    p, true = logits.softmax(1), functional.one_hot(target, logits.shape[1]).bool()
    eps = c.label_smoothing or 0.0
    share = true.double() * (1 - eps) + eps / logits.shape[1]
    p_t = p[true]
    if loss == "focal":
        return -c.loss_alpha * (1 - p_t) ** c.loss_gamma * p_t.log()
    if loss == "asymmetric_multi_label":
        return plain_multi_label(p, true, c.loss_gamma_pos, c.loss_gamma_neg, c.loss_clip)
    if loss == "weighted":
        weight = torch.ones(logits.shape[1], dtype=p.dtype)
        weight[1] = c.loss_fraud_weight
    elif loss == "cross_entropy":
        weight = torch.ones_like(p)
    elif loss == "asl_focal":
        weight = plain_focus(p, true, c.loss_gamma, c.loss_gamma)
    else:
        weight = plain_focus(p, true, c.loss_gamma_pos, c.loss_gamma_neg)
    if loss == "cyclical_focal":
        weight = xi * torch.where(true, (1 + p) ** c.loss_gamma_hc, 1.0) + (1 - xi) * weight
    return -(share * weight * p.log()).sum(1)


ODD = [
    ("cross_entropy", {"label_smoothing": 0.2}),
    ("weighted", {"loss_fraud_weight": 7.5, "label_smoothing": 0.1}),
    ("focal", {"loss_gamma": 0.5, "loss_alpha": 0.7}),
    ("cyclical_focal", {"loss_gamma_pos": 0.5, "loss_gamma_neg": 1.5, "loss_gamma_hc": 3, "loss_cycle_factor": 2}),
    ("asymmetric", {"loss_gamma_pos": 1.5, "loss_gamma_neg": 0.5, "label_smoothing": 0.3}),
    ("asymmetric_multi_label", {"loss_gamma_neg": 0.5, "loss_clip": 0.1}),
    ("asymmetric_multi_label", {"loss_gamma_neg": 2, "loss_clip": 0}),
    ("asl_focal", {"loss_gamma": 3.5, "label_smoothing": 0.05}),
]


@pytest.mark.parametrize(("loss", "parameters"), [*((name, {}) for name in LOSSES), *ODD])
@pytest.mark.parametrize("classes", [2, 4])
def test_values_and_gradients_are_those_of_the_plain_formula(loss: str, parameters: Any, classes: int) -> None:
    made = config(loss, epochs=10, **parameters)
    logits, target = random_batch(classes)
    results = []
    for compute in (
        lambda x: make_loss(made)(x, target, 4),
        lambda x: plain(loss, made, x, target, certainty_at(4, 10, made.loss_cycle_factor or 1)),
    ):
        x = logits.clone().requires_grad_()
        each = compute(x)
        each.sum().backward()
        results.append((each.detach(), x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_those_of_finite_differences(loss: str) -> None:
    logits, target = random_batch(3, seed=1)
    made = make_loss(config(loss, epochs=5))
    assert torch.autograd.gradcheck(lambda x: made(x, target, 2), (logits.requires_grad_(),))


SIZES = st.floats(min_value=-(2.0**100), max_value=2.0**100, width=32)
ROWS = st.lists(st.tuples(SIZES, SIZES, st.integers(0, 1)), min_size=1, max_size=8)


@pytest.mark.parametrize(("loss", "parameters"), [*((name, {}) for name in LOSSES), *ODD])
@settings(max_examples=40, deadline=None)
@given(rows=ROWS, epoch=st.integers(1, 3))
def test_no_finite_logit_gives_nan(loss: str, parameters: Any, rows: list[Any], epoch: int) -> None:
    logits = torch.tensor([row[:2] for row in rows], dtype=torch.float32, requires_grad=True)
    each = make_loss(config(loss, epochs=3, **parameters))(logits, torch.tensor([row[2] for row in rows]), epoch)
    assert torch.isfinite(each).all()
    assert (each >= 0).all()
    each.sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(loss: str, dtype: torch.dtype) -> None:
    logits, target = random_batch(2, seed=2)
    half = (10 * logits).to(dtype).requires_grad_()
    made = make_loss(config(loss))
    each = made(half, target, 1)
    assert each.dtype == torch.float32
    torch.testing.assert_close(each, made(half.detach().float(), target, 1), rtol=0, atol=0)
    each.sum().backward()
    assert half.grad.dtype == dtype


def test_the_certainty_falls_and_rises() -> None:
    assert [certainty_at(epoch, 21, 4.0) for epoch in (1, 6, 21)] == pytest.approx([1, 0, 1])
    assert [certainty_at(epoch, 5, 1.0) for epoch in range(1, 7)] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert certainty_at(1, 1, 4.0) == 1
    assert all(0 <= certainty_at(epoch, 20, 1.9) <= 1 for epoch in range(1, 30))


def test_focusing_lowers_what_is_certain() -> None:
    sure = torch.tensor([[0.0, 6.0]])
    fraud = torch.tensor([1])
    soft, sharp = (losses.focal(sure, fraud, gamma=gamma, alpha=1.0) for gamma in (0.0, 2.0))
    assert float(sharp) < 1e-4 * float(soft)
    assert float(soft) == pytest.approx(math.log1p(math.exp(-6)), rel=1e-4)


@pytest.mark.parametrize("kind", CHOICES)
def test_settings_offer_what_there_is(kind: str) -> None:
    assert get_args(TrainingConfig.model_fields[kind].annotation) == tuple(CHOICES[kind])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_has_its_defaults_and_no_other_settings(loss: str) -> None:
    made = config(loss)
    found = {name: value for name, value in made.model_dump().items() if name.startswith(("loss_", "label_smoothing"))}
    assert {name: value for name, value in found.items() if value is not None} == LOSSES[loss]
    assert TrainingConfig.make(json.loads(made.model_dump_json())) == made


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"loss": "hinge"}, "training.loss: must be cross_entropy"),
        ({"loss": ["focal"]}, "training.loss"),
        ({"loss": "focal", "loss_gamma": -1}, r"training.loss_gamma: must be at least 0 [(]got -1"),
        ({"loss": "focal", "loss_gamma": float("nan")}, "training.loss_gamma"),
        ({"loss": "focal", "loss_alpha": 0}, r"training.loss_alpha: .* [(]got 0"),
        ({"loss": "focal", "loss_alpha": float("inf")}, "training.loss_alpha"),
        ({"label_smoothing": 1.0}, r"training.label_smoothing: .* [(]got 1.0"),
        ({"loss": "weighted", "loss_fraud_weight": 0}, "training.loss_fraud_weight"),
        ({"loss": "asymmetric", "loss_gamma_pos": -0.1}, "training.loss_gamma_pos"),
        ({"loss": "asymmetric", "loss_gamma_neg": "x"}, "training.loss_gamma_neg"),
        ({"loss": "asymmetric_multi_label", "loss_clip": 1.0}, "training.loss_clip"),
        ({"loss": "cyclical_focal", "loss_cycle_factor": 0.5}, "training.loss_cycle_factor"),
        ({"loss": "cyclical_focal", "loss_gamma_hc": -2}, "training.loss_gamma_hc"),
        (
            {"loss_gamma": 2.0},
            r"loss_gamma needs loss='focal' or 'asl_focal' [(]got loss='cross_entropy', loss_gamma",
        ),
        ({"loss": "focal", "loss_clip": 0.1}, r"loss_clip needs loss='asymmetric_multi_label' [(]got loss='focal'"),
    ],
)
def test_bad_settings_are_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        TrainingConfig.make(given)


def test_every_golden_key_is_of_a_loss_there_is() -> None:
    names = {re.split(r"[ ]|_sum", key)[0].removesuffix("_single_label") for key in GOLDEN} - {"logits", "target"}
    assert names == set(LOSSES) - {"weighted"}


def test_the_docs_tell_every_choice_and_its_defaults() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "reference" / "training-losses.md").read_text().splitlines()
    for kind, choices in CHOICES.items():
        for name, defaults in choices.items():
            line = next(line for line in lines if line.startswith(f"| `{name}`"))
            for setting, value in defaults.items():
                shown = json.dumps(value) if isinstance(value, bool | tuple) else f"{value:g}"
                assert f"`{setting}` {shown}" in line, (kind, name)


def test_the_originals_training_can_be_had() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "training-losses.md").read_text()
    told = re.findall(r"`(\w+) = ([^`]+)`", text[text.index("The legacy system's training is") :])
    assert len(told) == 13
    TrainingConfig.make({name: json.loads(value) for name, value in told})
