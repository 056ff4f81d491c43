"""Turn gathered histories into batches of tensors, for training and all kinds of scoring."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from tsa.data.augmentation import HistoryAugmentation
from tsa.data.history import HistoryArrays, gather
from tsa.data.store.store import EventStore
from tsa.data.wire import Requests
from tsa.model.batch import Batch, History


def gather_batch(
    store: EventStore,
    rows: NDArray[np.int64],
    *,
    trim: bool = False,
    widths: Mapping[str, int] | None = None,
    variation: HistoryAugmentation | None = None,
) -> Batch:
    """The histories of the events `rows` (B,) for every key of the store's market, as tensors without copying.

    Args:
        trim: Make each history only as wide as the longest in the batch: the same scores up to rounding, less work.
        widths: By history, the width to use instead of the market's; the oldest events that do not fit are left out.
        variation: In training only, the augmentation: see `gather`.
    """
    lengths = {key.name: (widths or {}).get(key.name, key.length) for key in store.market.views}
    histories = {
        name: _tensors(gather(store.events, store.histories[name], rows, length, trim=trim, variation=variation))
        for name, length in lengths.items()
    }
    engineered = torch.from_numpy(store.engineered[rows]) if store.engineered.shape[1] else None
    return Batch(histories=histories, engineered=engineered)


def request_batch(requests: Requests) -> Batch:
    """Parsed requests as tensors, without copying."""
    engineered = torch.from_numpy(requests.engineered) if requests.engineered.shape[1] else None
    return Batch({name: _tensors(arrays) for name, arrays in requests.histories.items()}, engineered)


def _tensors(arrays: HistoryArrays) -> History:
    return History(
        categorical=torch.from_numpy(arrays.categorical),
        numerical=torch.from_numpy(arrays.numerical),
        age_seconds=torch.from_numpy(arrays.age_seconds),
        padding=torch.from_numpy(arrays.padding),
        outcome=torch.from_numpy(arrays.outcome),
        same_key=torch.from_numpy(arrays.same_key),
    )
