"""The settings of a network, and the three presets built from them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tsa.config.settings import Settings
from tsa.errors import ConfigError
from tsa.model.time_encoding import AGE_CAP_SECONDS, MAX_CAP_SECONDS

Names = Annotated[tuple[str, ...], Field(strict=False)]
Blocks = Annotated[tuple[Literal["order", "feature", "gate"], ...], Field(strict=False)]


class ModelConfig(Settings):
    """Sizes and choices of a network (C, F, G features; D = `width`)."""

    model_config = ConfigDict(strict=True)
    section: ClassVar[str] = "model"

    n_categorical: int = Field(ge=0)
    """Number of categorical features."""
    n_numerical: int = Field(ge=0)
    """Number of numerical features."""
    n_engineered: int = Field(default=0, ge=0)
    """Number of engineered features."""
    n_embedding: int = Field(ge=1)
    """Size of the shared embedding table: categorical values and numerical features."""
    histories: Names = ("history",)
    """Names of the histories; the current event of the first one feeds the feature attention."""
    n_classes: int = Field(default=2, ge=2)
    """Number of classes."""
    width: int = Field(default=64, ge=1)
    """Width D of the embeddings."""
    n_heads: int = Field(default=1, ge=1)
    """Attention heads; must divide `width`."""
    n_order_layers: int = Field(default=6, ge=1)
    """Layers of the attention over events."""
    n_feature_layers: int = Field(default=4, ge=0)
    """Layers of the attention over features; 0: none."""
    feedforward_width: int = Field(default=256, ge=1)
    """Hidden width of the feed-forward layers."""
    classifier_width: int = Field(default=1024, ge=1)
    """Hidden width of the classifier."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout rate, at least 0 and below 1."""
    feature_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of training payments that lose a categorical feature, in all events."""
    event_embedding: Literal["aggregate", "factorise", "sum"] = "aggregate"
    """How an event is embedded. `aggregate`: folded over the features, width 2D. `factorise`: factorisation machine,
    width 2D. `sum`: sum of the embeddings of values, outcome, numbers and age, width D."""
    n_tree_ensemble: int = Field(default=1, ge=1)
    """Models of boosted trees with different seeds that are averaged."""
    n_match_features: int = Field(default=0, ge=0)
    """`sum` only: for this many first categorical features, add whether an event has the same value as the current
    one."""
    n_match_keys: int = Field(default=0, ge=0)
    """`sum` only: for this many keys, the market's, add whether an event has the same key as the current one, such as the
    merchant of an earlier payment of the customer. 0: not."""
    n_missing_indicators: int = Field(default=0, ge=0)
    """`sum` only: this many last numerical features are 0 or 1 and mark missing values; they get no periodic
    encoding."""
    known_outcomes: bool = False
    """`sum` only: embed the known outcomes of earlier payments."""
    n_frequencies: int = Field(default=16, ge=1)
    """Number of frequencies of the periodic encoding of numbers."""
    frequency_scale: float = Field(default=0.3, gt=0)
    """Scale of these frequencies, above 0."""
    norm: Literal["post", "pre"] = "post"
    """Layer norm after or before each block of the attention over events; the feature attention is always `pre`."""
    activation: Literal["relu", "gelu"] = "relu"
    """Activation function."""
    time_attention: Literal["none", "exponential", "log"] = "exponential"
    """How ages change attention. `exponential`: logits × exp(age difference / 1e6 s). `log`: logits minus a learned
    multiple of log(1 + age difference in days) per head."""
    age_cap_seconds: float = Field(default=AGE_CAP_SECONDS, gt=0)
    """`exponential` only: no age counts as more. With inline histories it is `wire.age_cap_seconds`."""
    time_encoding: bool = False
    """Add a learned periodic encoding of the age (Time2Vec) to each event."""
    order_attention: Literal["self", "cross"] = "self"
    """`self`: every event attends to every event. `cross`: only the current event attends to the events, for a
    fraction of the cost; needs `norm` `pre` and `pooling` `last`."""
    n_ensemble: int = Field(default=1, ge=1)
    """`cross` only: number of ensemble members with separate attention and classifiers; their logits are averaged."""
    pooling: Literal["cls", "last"] = "cls"
    """Output of the attention over events: a learned token (`cls`), or the current event (`last`)."""
    fusion: Literal["gate", "softmax", "concat"] = "gate"
    """How several histories are combined. `gate`: weights from a small attention over events, applied before the
    others run. `softmax`: concatenated, each weighted by its importance. `concat`: concatenated."""
    fusion_floor: float = Field(default=0.0, ge=0, lt=1)
    """`softmax` fusion: share of the weight that all histories get alike, so that none can be ignored. 0: a history's
    weight may become 0, and then it no longer learns."""
    biases: bool = True
    """Learned bias per token of the feature attention."""
    mlp: bool = False
    """Add a branch that reads the current numerical and engineered features directly."""
    n_experts: int = Field(default=0, ge=0)
    """Experts in place of each feed-forward layer of the blocks in `experts_in`; 0: none."""
    n_expert_groups: int = Field(default=1, ge=1)
    """Groups of experts; above 1, routing has two levels. Must divide `n_experts`."""
    experts_in: Blocks = ("order", "feature")
    """Blocks with experts: `order`, `feature`, `gate`."""
    expert_policy: Literal["all", "none", "threshold", "random"] = "random"
    """When a second expert is used: always (`all`), never (`none`), if its gate exceeds 0.2 (`threshold`), or with
    probability gate / 0.2 in training and always in evaluation (`random`)."""
    balance_weight: float = Field(default=1e-2, ge=0)
    """Weight of the experts' balance loss."""
    aggregation_floor: int = Field(default=8, ge=0)
    """Smallest width inside an aggregation of fewer than 32 features; 0: the rule of the legacy TSA system."""
    gate_width: int = Field(default=16, ge=1)
    """`gate` fusion: width of the gate's embeddings."""
    gate_feedforward_width: int = Field(default=128, ge=1)
    """`gate` fusion: hidden width of its feed-forward layers."""
    gate_hidden_width: int = Field(default=256, ge=1)
    """`gate` fusion: hidden width of its classifier."""
    gate_threshold: float = Field(default=0.05, ge=0, lt=1)
    """`gate` fusion: histories with a smaller weight are skipped."""
    parts: Literal["auto", "network", "trees", "combined"] = "network"
    """What scores: this `network`, boosted `trees` on aggregates of the histories, or both (`combined`: their log odds,
    weighted). `auto`: both, unless one alone is better, beyond chance, on payments that neither has learned from."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        def refuse(rule: str, *names: str) -> None:
            values = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
            raise ValueError(f"{rule} (got {values})")

        if self.width % self.n_heads:
            refuse("n_heads must divide width", "n_heads", "width")
        capped = self.time_attention == "exponential"
        if capped and self.age_cap_seconds > MAX_CAP_SECONDS:
            refuse(f"age_cap_seconds must be at most {MAX_CAP_SECONDS:g}", "age_cap_seconds")
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
        if self.n_match_keys and self.event_embedding != "sum":
            refuse("n_match_keys needs event_embedding='sum'", "n_match_keys", "event_embedding")
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
        if self.n_expert_groups > 1 and (self.n_experts < 2 or self.n_experts % self.n_expert_groups):
            refuse("n_expert_groups must divide n_experts", "n_expert_groups", "n_experts")
        return self

    @property
    def event_width(self) -> int:
        """E, the width of an order attention: 2D, or D with event_embedding="sum"."""
        return self.width if self.event_embedding == "sum" else 2 * self.width

    @property
    def ensemble_width(self) -> int:
        """Width of the classifier's input."""
        n_orders = len(self.histories) if self.fusion in ("concat", "softmax") else 1
        return n_orders * self.event_width + self.width * (int(self.n_feature_layers > 0) + int(self.mlp))


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
    "fusion_floor": 0.1,
    "parts": "auto",
    "n_tree_ensemble": 5,
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

    "reference" and "reference-two-history" have the production sizes of the legacy system (EU and NA); "default"
    needs n_categorical, n_numerical and n_embedding from the market. ConfigError on an unknown name or setting.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)} (got preset={name!r})")
    return ModelConfig.make({**PRESETS[name], **settings})
