"""The settings of a network, checked when made, and the three presets built from them.

Knows sizes and choices only: no tensors, no markets, no files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tsa.config.toml import suggest
from tsa.errors import ConfigError
from tsa.model.time_encoding import AGE_CAP_SECONDS, MAX_CAP_SECONDS
from tsa.text import brief

CHOICES: dict[str, tuple[str, ...]] = {
    "event_embedding": ("aggregate", "factorise", "sum"),
    "norm": ("post", "pre"),
    "activation": ("relu", "gelu"),
    "time_attention": ("none", "exponential", "log"),
    "order_attention": ("self", "cross"),
    "pooling": ("cls", "last"),
    "fusion": ("gate", "softmax", "concat"),
    "expert_policy": ("all", "none", "threshold", "random"),
}
MINIMA: dict[str, int] = {
    "n_categorical": 0,
    "n_numerical": 0,
    "n_engineered": 0,
    "n_match_features": 0,
    "n_missing_indicators": 0,
    "n_ensemble": 1,
    "n_embedding": 1,
    "n_classes": 2,
    "width": 1,
    "n_heads": 1,
    "n_order_layers": 1,
    "n_feature_layers": 0,
    "feedforward_width": 1,
    "classifier_width": 1,
    "n_frequencies": 1,
    "n_experts": 0,
    "n_expert_groups": 1,
    "aggregation_floor": 0,
    "gate_width": 1,
    "gate_feedforward_width": 1,
    "gate_hidden_width": 1,
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and choices of a network (C, F, G features; D = `width`).

    histories               names of the histories, the one whose current event feeds the feature attention first
    n_embedding             N: the shared table has N + 2 rows of width D; row 0 is padding and stays zero, rows
                            1 … N − F hold categorical values, N − F + 1 … N the numerical features
    feature_dropout         share of the payments from which, in training, a categorical feature is left out, in all events:
                            so little is learned by heart of a feature that says nothing
    event_embedding         "aggregate": folded over the feature axis, width 2D (reference);
                            "factorise": factorisation machine in its place, width 2D;
                            "sum": width D: embeddings of categorical values and outcome, a linear map of the numbers, of
                            their differences from the current event's and of the age, plain and periodic, all summed
    n_match_features               "sum" only: so many leading categorical features tell of each event whether it has the same
                            value as the current one (the same device, another country)
    n_missing_indicators                 "sum" only: so many trailing numerical features are 0 or 1, marks of missing
                                         values; they are told
                            as they are, without waves and distances
    known_outcomes          "sum" only: embed History.outcome (0 padding, 1 not known, 2 genuine, 3 fraud)
    norm, activation        of the order attention's layers; the feature attention's are always pre-norm
    time_attention          "exponential": logits × exp((age_i − age_j) / 1e6 s) (reference);
                            "log": logits − exp(s_head) · log1p(|age_i − age_j| in days), s learned; "none"
    age_cap_seconds         "exponential" only: no age counts as more. Where rows carry their history it is
                            wire.age_cap_seconds
    time_encoding           add to each event, as embedded, a learned periodic encoding of its age (Time2Vec)
    order_attention         "self": in each layer every event attends to every event (reference); "cross": the current
                            event alone attends, layer after layer, to the events as embedded, for a fraction of the work
    n_ensemble               "cross" only: M small networks in one, each with its own passes over the events as embedded and
                            its own classifier; each learns for itself, and their logits are averaged
    pooling                what an order attention returns: a learned token "cls" (reference), or the current event, "last"
    combine                 "gate": importances from a small order attention of its own, applied before the others run
                            (reference); "softmax": importances from the order embeddings, which then stand side by side, each
                            times its importance; "concat": side by side
    biases                  a learned bias per token of the feature attention
    n_feature_layers        0 leaves the feature attention out
    mlp                     add the branch that reads the current numerical and engineered features directly
    n_experts               experts in place of each feed-forward of the blocks in `experts_in` ("order", "feature",
                            "gate"); 0: none. n_expert_groups > 1: two-level routing
    balance_weight          weight of the experts' balance loss in `TSANetwork.auxiliary_loss`
    aggregation_floor       least width inside a feature aggregation of fewer than 32 features; 0: the legacy system's rule
    """

    n_categorical: int
    n_numerical: int
    n_engineered: int = 0
    n_embedding: int
    histories: tuple[str, ...] = ("history",)
    n_classes: int = 2
    width: int = 64
    n_heads: int = 1
    n_order_layers: int = 6
    n_feature_layers: int = 4
    feedforward_width: int = 256
    classifier_width: int = 1024
    dropout: float = 0.1
    feature_dropout: float = 0.0
    event_embedding: str = "aggregate"
    n_match_features: int = 0
    n_missing_indicators: int = 0
    known_outcomes: bool = False
    n_frequencies: int = 16
    frequency_scale: float = 0.3
    norm: str = "post"
    activation: str = "relu"
    time_attention: str = "exponential"
    age_cap_seconds: float = AGE_CAP_SECONDS
    time_encoding: bool = False
    order_attention: str = "self"
    n_ensemble: int = 1
    pooling: str = "cls"
    fusion: str = "gate"
    biases: bool = True
    mlp: bool = False
    n_experts: int = 0
    n_expert_groups: int = 1
    experts_in: tuple[str, ...] = ("order", "feature")
    expert_policy: str = "random"
    balance_weight: float = 1e-2
    aggregation_floor: int = 8
    gate_width: int = 16
    gate_feedforward_width: int = 128
    gate_hidden_width: int = 256
    gate_threshold: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "histories", tuple(self.histories))
        object.__setattr__(self, "experts_in", tuple(self.experts_in))
        for name, least in MINIMA.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{name} must be an integer of at least {least} (got {name}={value!r})")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)} (got {name}={getattr(self, name)!r})")
        self._check_together()

    def _check_together(self) -> None:
        def refuse(rule: str, *names: str) -> None:
            values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
            raise ConfigError(f"{rule} (got {values})")

        if self.width % self.n_heads:
            refuse("n_heads must divide width", "n_heads", "width")
        if not 0.0 <= self.dropout < 1.0:
            refuse("dropout must lie in [0, 1)", "dropout")
        if not 0.0 <= self.feature_dropout < 1.0:
            refuse("feature_dropout must lie in [0, 1)", "feature_dropout")
        if not 0.0 <= self.gate_threshold < 1.0:
            refuse("gate_threshold must lie in [0, 1)", "gate_threshold")
        if self.balance_weight < 0.0:
            refuse("balance_weight must not be negative", "balance_weight")
        if self.frequency_scale <= 0.0:
            refuse("frequency_scale must be above 0", "frequency_scale")
        capped = self.time_attention == "exponential"
        if not 0.0 < self.age_cap_seconds < math.inf or (capped and self.age_cap_seconds > MAX_CAP_SECONDS):
            refuse(f"age_cap_seconds must be above 0 and at most {MAX_CAP_SECONDS:g}", "age_cap_seconds")
        if not self.histories or len(set(self.histories)) < len(self.histories):
            refuse("histories must be one or more different names", "histories")
        if self.n_categorical + self.n_numerical == 0:
            refuse("an event needs at least one categorical or numerical feature", "n_categorical", "n_numerical")
        if self.n_embedding < self.n_numerical:
            refuse("n_embedding must be at least n_numerical", "n_embedding", "n_numerical")
        if self.n_match_features and (self.event_embedding != "sum" or self.n_match_features > self.n_categorical):
            refuse(
                "n_match_features needs event_embedding='sum' and as many categorical features",
                "n_match_features",
                "n_categorical",
            )
        if self.n_missing_indicators and (
            self.event_embedding != "sum" or self.n_missing_indicators > self.n_numerical
        ):
            refuse(
                "n_missing_indicators needs event_embedding='sum' and as many numerical features",
                "n_missing_indicators",
                "n_numerical",
            )
        if self.known_outcomes and self.event_embedding != "sum":
            refuse("known_outcomes needs event_embedding='sum'", "known_outcomes", "event_embedding")
        if self.order_attention == "cross" and (self.norm, self.pooling) != ("pre", "last"):
            refuse("order_attention='cross' needs norm='pre' and pooling='last'", "norm", "pooling")
        gated = self.fusion == "gate" and len(self.histories) > 1
        if self.n_ensemble > 1 and (self.order_attention != "cross" or gated):
            rule = "n_ensemble above 1 needs order_attention='cross', and no gate between histories"
            refuse(rule, "n_ensemble", "order_attention", "fusion")
        if self.mlp and self.n_numerical + self.n_engineered == 0:
            refuse("mlp needs numerical or engineered features", "n_numerical", "n_engineered")
        if not set(self.experts_in) <= {"order", "feature", "gate"}:
            refuse("experts_in must be among order, feature, gate", "experts_in")
        if self.n_expert_groups > 1 and (self.n_experts < 2 or self.n_experts % self.n_expert_groups):
            refuse("n_expert_groups must divide n_experts", "n_expert_groups", "n_experts")

    @property
    def event_width(self) -> int:
        """E, the width of an order attention: 2D, or D where events are embedded by a sum."""
        return self.width if self.event_embedding == "sum" else 2 * self.width

    @property
    def ensemble_width(self) -> int:
        """Width of what the classifier reads."""
        n_orders = len(self.histories) if self.fusion in ("concat", "softmax") else 1
        return n_orders * self.event_width + self.width * (int(self.n_feature_layers > 0) + int(self.mlp))

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them; `from_dict` reads them back."""
        lists = {"histories": list(self.histories), "experts_in": list(self.experts_in)}
        return {**dataclasses.asdict(self), **lists}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> ModelConfig:
        """Settings from JSON or the command line. ConfigError on a name that does not exist or is missing."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := sorted(set(settings) - set(fields)):
            rule = f"model settings must be those of the network (got {brief(', '.join(unknown))})"
            raise ConfigError(f"{rule}{suggest(unknown[0], list(fields))}")
        required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        if missing := sorted(required - set(settings)):
            raise ConfigError(f"model settings must hold {', '.join(sorted(required))}, missing: {', '.join(missing)}")
        return cls(**settings)

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some settings changed, checked again."""
        return self.from_dict({**self.to_dict(), **changes})


_DEFAULT: dict[str, Any] = {
    "width": 64,
    "n_heads": 8,
    "n_order_layers": 2,
    "n_feature_layers": 1,
    "feedforward_width": 128,
    "classifier_width": 128,
    "feature_dropout": 0.3,
    "event_embedding": "sum",
    "norm": "pre",
    "activation": "gelu",
    "time_attention": "log",
    "order_attention": "cross",
    "n_ensemble": 4,
    "pooling": "last",
    "frequency_scale": 1.0,
    "fusion": "softmax",
}
_EU = {"n_categorical": 108, "n_numerical": 51, "n_engineered": 413, "n_embedding": 2403, "histories": ("cid",)}
_NA = {"n_categorical": 109, "n_numerical": 67, "n_engineered": 297, "n_embedding": 2070, "histories": ("cid", "ccid")}
PRESETS: dict[str, dict[str, Any]] = {
    "reference": _EU,
    "reference-two-history": _NA,
    "default": _DEFAULT,
}


def preset(name: str, **settings: Any) -> ModelConfig:
    """A named configuration with some settings replaced.

    "reference" and "reference-two-history" come with the production sizes of the legacy system (EU and NA); "default"
    needs n_categorical, n_numerical and n_embedding from the market. ConfigError on an unknown name or setting.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)} (got preset={name!r})")
    return ModelConfig.from_dict({**PRESETS[name], **settings})
