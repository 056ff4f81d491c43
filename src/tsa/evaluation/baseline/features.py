"""The features of the baseline: the payment's own values, and the aggregates of its histories over the complete log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tsa.data.aggregates.compute import compute_aggregates
from tsa.data.aggregates.spec import AggregateSpec
from tsa.scale.aggregates import aggregates_by_ray
from tsa.times import DAY_SECONDS

if TYPE_CHECKING:
    from tsa.data.store.store import EventStore

Array = NDArray[Any]


@dataclass(frozen=True)
class BaselineFeatures:
    """The features of R payments."""

    values: Array
    """(R, K) float32; NaN where a value is missing or there is nothing to aggregate."""
    names: tuple[str, ...]
    """K names: of the market, or such as `customer/number/amount/mean_7d`."""
    categorical: tuple[str, ...]
    """The names of columns that are codes, not quantities."""
    current: tuple[str, ...]
    """The names of columns that are quantities of the payment itself, not aggregates."""


def baseline_features(store: EventStore, rows: Array, spec: AggregateSpec, *, cluster: Any = None) -> BaselineFeatures:
    """The features of payments, as of each payment's time.

    Args:
        store: The store.
        rows: (R,) rows of the payments.
        spec: The aggregates.
        cluster: A Ray cluster whose workers compute the aggregates, which are the same to the bit. All nodes must see the
            store.
    """
    quantities, codes = _quantities(store, rows), _codes(store, rows)
    own = [*quantities, *codes]
    names = _distinct([*spec.names, *(name for name, _ in own)])
    names = (*names[len(spec.names) :], *spec.names)
    values = np.empty((len(rows), len(names)), np.float32)
    for at, (_, column) in enumerate(own):
        values[:, at] = column
    aggregates = values[:, len(own) :]
    if cluster is None:
        aggregates[:] = compute_aggregates(spec, store, rows)
    else:
        aggregates_by_ray(cluster, spec, store, rows, aggregates)
    n = len(quantities)
    return BaselineFeatures(values=values, names=names, categorical=names[n : len(own)], current=names[:n])


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Unique names: a column of the market with a name that came before gets a suffix."""
    unique: dict[str, None] = {}
    for name in names:
        while name in unique:
            name += "'"
        unique[name] = None
    return tuple(unique)


def _quantities(store: EventStore, rows: Array) -> list[tuple[str, Array]]:
    """Numerical features as they are (scaled, if rows carry their own history), engineered ones, hour and weekday."""
    features = store.market.features
    numbers = store.raw_numerical if store.market.wire is None else store.numerical
    assert numbers is not None
    columns = [(item.name, np.asarray(numbers[rows, at])) for at, item in enumerate(features.numerical)]
    columns += [(item.name, np.asarray(store.engineered[rows, at])) for at, item in enumerate(features.engineered)]
    time = np.asarray(store.time_seconds)[rows]
    # The epoch began on a Thursday; 0 is Monday.
    return [
        *columns,
        ("calendar.hour", time % DAY_SECONDS / 3600),
        ("calendar.day_of_week", (time // DAY_SECONDS + 3) % 7),
    ]


def _codes(store: EventStore, rows: Array) -> list[tuple[str, Array]]:
    names = [feature.name for feature in store.market.features.categorical]
    return [(name, np.asarray(store.categorical[rows, at])) for at, name in enumerate(names)]
