"""The inputs of a network as tensors: the events of each history, and the engineered features of the current payment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from tsa.errors import ModelError
from tsa.model.config import ModelConfig


@dataclass
class History:
    """The events of one key up to the current one, which is last; padded on the left.

    categorical (B, L, C) int    rows of the shared embedding table, 0 = padding
    numerical   (B, L, F) float  scaled values, 0 at padding
    age_seconds (B, L) float     the current event's time minus this event's, ≥ 0; 0 at padding
    padding     (B, L) bool      True where there is no event
    outcome     (B, L) int       0 padding, 1 not known, 2 genuine, 3 fraud; None if outcomes are not an input
    same_key    (B, L, K) bool   whether this event has the current one's key, for each key that is compared; False at
                padding; None if keys are not an input
    """

    categorical: Tensor
    numerical: Tensor
    age_seconds: Tensor
    padding: Tensor
    outcome: Tensor | None = None
    same_key: Tensor | None = None

    def _map(self, function: Callable[[Tensor], Tensor]) -> History:
        return History(
            categorical=function(self.categorical),
            numerical=function(self.numerical),
            age_seconds=function(self.age_seconds),
            padding=function(self.padding),
            outcome=None if self.outcome is None else function(self.outcome),
            same_key=None if self.same_key is None else function(self.same_key),
        )

    def to(self, device: torch.device | str) -> History:
        """The same history on another device."""
        return self._map(lambda x: x.to(device))

    def select(self, index: Tensor) -> History:
        """The payments at `index` (k) int64: a history of k."""
        return self._map(lambda x: x.index_select(0, index))

    def split(self, size: int) -> Iterator[History]:
        """Histories of `size` payments at a time; the last one may be smaller."""
        for first in range(0, self.padding.shape[0], size):
            yield self._map(partial(torch.narrow, dim=0, start=first, length=min(size, self.padding.shape[0] - first)))

    def trimmed(self) -> History:
        """Without the leading positions that are padding in every row (scores do not change)."""
        used = (~self.padding).any(0)
        length = self.padding.shape[1]
        first = int(used.int().argmax()) if bool(used.any()) else length - 1
        return self._map(lambda x: x[:, first:]) if first else self

    def check(self, name: str, config: ModelConfig) -> None:
        """Check shapes and types against the configuration.

        Raises:
            ModelError: If one does not match, or a row is outside the table.
        """
        if self.padding.ndim != 2 or self.padding.shape[1] == 0:
            raise ModelError(f"history {name}: padding must be (B, L ≥ 1) (got {tuple(self.padding.shape)})")
        batch, length = self.padding.shape
        expected = {
            "categorical": (batch, length, config.n_categorical),
            "numerical": (batch, length, config.n_numerical),
            "age_seconds": (batch, length),
        }
        if config.known_outcomes:
            if self.outcome is None:
                raise ModelError(f"history {name}: outcome must be given, since known_outcomes is on (got None)")
            expected["outcome"] = (batch, length)
        if config.n_match_keys:
            if self.same_key is None:
                raise ModelError(f"history {name}: same_key must be given, since n_match_keys is above 0 (got None)")
            expected["same_key"] = (batch, length, config.n_match_keys)
        for field, shape in expected.items():
            if (actual := tuple(getattr(self, field).shape)) != shape:
                raise ModelError(f"history {name}: {field} must be {shape} (got {actual})")
        if self.padding.dtype != torch.bool:
            raise ModelError(f"history {name}: padding must be bool (got {self.padding.dtype})")
        if self.categorical.is_floating_point():
            raise ModelError(f"history {name}: categorical must be integers (got {self.categorical.dtype})")
        self._check_rows(name, config.n_embedding + 1)

    def _check_rows(self, name: str, last: int) -> None:
        # only where reading two numbers back costs nothing: on a GPU it would wait for all queued work
        if self.categorical.is_cpu and self.categorical.numel() and not torch.compiler.is_compiling():
            low, high = (int(v) for v in self.categorical.aminmax())
            if low < 0 or high > last:
                raise ModelError(f"history {name}: categorical must lie in 0 … {last} (got {low} … {high})")


@dataclass
class Batch:
    """B payments: their histories by name, and `engineered` (B, G) float features of the current payment."""

    histories: dict[str, History]
    engineered: Tensor | None = None

    def __len__(self) -> int:
        return len(next(iter(self.histories.values())).padding)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        engineered = None if self.engineered is None else self.engineered.to(device)
        return Batch({name: history.to(device) for name, history in self.histories.items()}, engineered)

    def to_dtype(self, dtype: torch.dtype) -> Batch:
        """The same batch with features of the type a network computes in; ages keep theirs."""
        engineered = None if self.engineered is None else self.engineered.to(dtype)
        histories = {k: replace(h, numerical=h.numerical.to(dtype)) for k, h in self.histories.items()}
        return Batch(histories, engineered)

    def rows(self, index: Tensor) -> Batch:
        """The payments at `index` (k) int64: a batch of k."""
        engineered = None if self.engineered is None else self.engineered.index_select(0, index)
        return Batch({name: history.select(index) for name, history in self.histories.items()}, engineered)

    def split(self, size: int) -> Iterator[Batch]:
        """Batches of `size` payments at a time; the last one may be smaller."""
        if len(self) <= size:
            yield from (self,) if len(self) else ()
            return
        engineered = None if self.engineered is None else torch.split(self.engineered, size)
        pieces = zip(*(history.split(size) for history in self.histories.values()), strict=True)
        for at, histories in enumerate(pieces):
            yield Batch(
                dict(zip(self.histories, histories, strict=True)), None if engineered is None else engineered[at]
            )

    def trimmed(self) -> Batch:
        """Each history without the positions that are padding in every row (scores do not change)."""
        return Batch({name: history.trimmed() for name, history in self.histories.items()}, self.engineered)

    def ordered_histories(self, config: ModelConfig) -> list[History]:
        """The histories in the order of `config.histories`, checked. A network of one history accepts any name.

        Raises:
            ModelError: If names, shapes or types do not match the configuration.
        """
        names, given = config.histories, self.histories
        if len(names) != len(given) or (len(names) > 1 and set(names) != set(given)):
            raise ModelError(f"histories must be {', '.join(names)} (got {', '.join(given)})")
        histories = list(given.values()) if len(names) == 1 else [given[name] for name in names]
        for name, history in zip(names, histories, strict=True):
            history.check(name, config)
        sizes = {name: history.padding.shape[0] for name, history in zip(names, histories, strict=True)}
        size = histories[0].padding.shape[0]
        if any(other != size for other in sizes.values()):
            raise ModelError(f"histories must hold the same number of payments (got {sizes})")
        shape = None if self.engineered is None else tuple(self.engineered.shape)
        expected = (size, config.n_engineered)
        if shape != expected and not (shape is None and config.n_engineered == 0):
            raise ModelError(f"engineered must be {expected} (got {shape})")
        return histories
