"""Gradient-boosted trees of LightGBM, read from its text format: numbers of a payment in, log odds of fraud out.

The format is plain text, so nothing is executed when it is read, and neither PyTorch nor training is needed to score.
Knows columns of numbers; not what they mean.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsa.errors import ConfigError, ModelError
from tsa.text import brief, truncate_repr

Array = NDArray[Any]
MAX_ROWS = 8192
"""Payments per call of LightGBM, which holds one number per payment and column for contributions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BoostedTrees:
    """Trees that read K columns.

    A payment's log odds depend, to the bit, on its own columns alone: each tree is walked in double precision, and the
    leaves are summed in the order of the trees.
    """

    text: str
    """The model as LightGBM writes it."""
    names: tuple[str, ...]
    """(K,) what the columns are."""
    shift: float = 0.0
    """Added to the log odds; below 0 where only a share of the genuine payments was learned from."""

    def __post_init__(self) -> None:
        """Check that the trees can be walked. Raises ModelError."""
        if not math.isfinite(self.shift):
            raise ModelError(f"the trees' shift must be finite (got {self.shift})")
        check_trees(self.text, len(self.names))

    @cached_property
    def _booster(self) -> Any:
        library = lightgbm_library()
        try:
            booster = library.Booster(model_str=self.text)
        except library.basic.LightGBMError as error:
            raise ModelError(f"the trees cannot be read by LightGBM: {error}") from error
        if booster.num_feature() != len(self.names):
            raise ModelError(f"the trees must read {len(self.names)} columns (got {booster.num_feature()})")
        return booster

    @property
    def n_trees(self) -> int:
        """How many trees there are."""
        return int(self._booster.num_trees())

    def log_odds(self, values: Array) -> NDArray[np.float64]:
        """(B,) log odds of the columns `values` (B, K) float32, NaN where there is no value."""
        parts = [self._predict(part) for part in _parts(self._checked(values))]
        return np.concatenate(parts) + self.shift if parts else np.empty(0)

    def contributions(self, values: Array) -> NDArray[np.float64]:
        """(B, K + 1) what each column adds to the log odds, the last one being the mean over the training payments.

        Each row adds up to its log odds. TreeSHAP (Lundberg, Erion and Lee 2018).
        """
        parts = [self._predict(part, pred_contrib=True) for part in _parts(self._checked(values))]
        result = np.concatenate(parts) if parts else np.empty((0, len(self.names) + 1))
        result[:, -1] += self.shift
        return result

    def gains(self) -> NDArray[np.float64]:
        """(K,) each column's share of the total gain of all splits."""
        gain = np.asarray(self._booster.feature_importance("gain"), np.float64)
        return gain / max(float(gain.sum()), float(np.finfo(np.float64).tiny))

    def _predict(self, values: Array, **kind: Any) -> NDArray[np.float64]:
        result = self._booster.predict(values, raw_score=True, num_threads=1, **kind)
        return np.asarray(result, np.float64)

    def _checked(self, values: Array) -> Array:
        if values.ndim != 2 or values.shape[1] != len(self.names):
            raise ModelError(f"the trees read (B, {len(self.names)}) numbers (got {values.shape})")
        return np.ascontiguousarray(values, np.float32)


def _parts(values: Array) -> Iterator[Array]:
    for first in range(0, len(values), MAX_ROWS):
        yield values[first : first + MAX_ROWS]


def lightgbm_library() -> Any:
    """The library LightGBM, which takes a moment to import. Raises ConfigError if it cannot be imported."""
    try:
        return import_module("lightgbm")
    except (ImportError, OSError) as error:  # OSError: a system library is missing
        raise ConfigError(
            f"trees need LightGBM, which cannot be imported ({brief(error)}): pip install lightgbm, and on Linux "
            "install OpenMP (such as apt-get install libgomp1)"
        ) from error


def check_trees(text: str, n_columns: int) -> None:
    """Check what LightGBM does not: that every split reads one of the columns and leads to a node or leaf that exists.

    A file with right hashes may still hold anything, and LightGBM would read memory that is not its own.

    Raises:
        ModelError: Names the first tree that is broken.
    """
    head, _, trees = text.partition("\nTree=0\n")
    facts = _fields(head)
    if not head.startswith("tree\n") or not trees or "average_output" in head.splitlines():
        raise ModelError("the trees must be a text model of LightGBM with at least one tree")
    expected = {"num_class": "1", "num_tree_per_iteration": "1", "max_feature_idx": str(n_columns - 1)}
    for name, value in expected.items():
        if facts.get(name) != value:
            raise ModelError(f"the trees must have {name}={value} (got {facts.get(name)})")
    at = len(head) + 1
    for number, size in enumerate(_integers(facts.get("tree_sizes", ""))):
        block = text[at : at + size]
        if not block.startswith(f"Tree={number}\n") or (problem := _problem(_fields(block), n_columns)):
            reason = "its size is wrong" if not block.startswith(f"Tree={number}\n") else problem
            raise ModelError(f"tree {number} must be complete ({reason})")
        at += size
    if not text[at:].startswith("end of trees\n"):
        raise ModelError("the trees must end after the last one that is listed")


def tree_fields(text: str) -> Iterator[dict[str, str]]:
    """The fields of each tree of a text model, by name, as texts."""
    head, _, _ = text.partition("\nTree=0\n")
    at = len(head) + 1
    for size in _integers(_fields(head)["tree_sizes"]):
        yield _fields(text[at : at + size])
        at += size


def _fields(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _integers(text: str) -> list[int]:
    try:
        return [int(value) for value in text.split()]
    except ValueError as error:
        raise ModelError(f"the trees must hold whole numbers ({error})") from None


def _problem(fields: dict[str, str], n_columns: int) -> str | None:
    """What is wrong with a tree; None if nothing is."""
    try:
        leaves, n_codes = int(fields["num_leaves"]), int(fields.get("num_cat", "0"))
        linear = int(fields.get("is_linear", "0"))
    except (KeyError, ValueError) as error:
        return f"got {truncate_repr(error, 80)}"
    of_leaves, of_splits, codes = (
        {name: fields.get(name, "").split() for name in names} for names in (LEAF_FIELDS, SPLIT_FIELDS, CODE_FIELDS)
    )
    if leaves < 1 or linear or len(of_leaves["leaf_value"]) != leaves:
        return "it must have a constant for each leaf"
    if leaves == 1:
        return None if _all_finite(of_leaves["leaf_value"]) else "its leaves must be numbers"
    if any(len(values) != leaves for values in of_leaves.values()):
        return f"{leaves} leaves must have as many values"
    if any(len(values) != leaves - 1 for values in of_splits.values()):
        return f"{leaves} leaves must have {leaves - 1} splits"
    if any(len(fields[name].split()) != leaves + more for name, more in OPTIONAL_FIELDS.items() if name in fields):
        return f"{leaves} leaves must have as many values, and a split less"
    if not _all_finite(of_leaves["leaf_value"]):
        return "its leaves must be numbers"
    return _splits_problem({name: _integers(" ".join(of_splits[name])) for name in INTEGER_FIELDS}, n_columns) or (
        _codes_problem(of_splits, {name: _integers(" ".join(values)) for name, values in codes.items()}, n_codes)
    )


def _all_finite(values: list[str]) -> bool:
    try:
        return all(math.isfinite(float(value)) for value in values)
    except ValueError:
        return False


def _splits_problem(splits: dict[str, list[int]], n_columns: int) -> str | None:
    leaves = len(splits["left_child"]) + 1
    if any(not 0 <= column < n_columns for column in splits["split_feature"]):
        return f"a split must read one of {n_columns} columns"
    if sorted([*splits["left_child"], *splits["right_child"]]) != [*range(-leaves, 0), *range(1, leaves - 1)]:
        return "each node and leaf must have one parent"
    pairs = enumerate(zip(splits["left_child"], splits["right_child"], strict=True))
    ordered = all(child < 0 or child > at for at, children in pairs for child in children)
    return None if ordered else "a node must come after its parent"


def _codes_problem(splits: dict[str, list[str]], codes: dict[str, list[int]], n_codes: int) -> str | None:
    """Splits by sets of codes: each names one of the sets, whose bits are listed."""
    kinds = _integers(" ".join(splits["decision_type"]))
    if not n_codes:
        return "a split must compare numbers" if any(kind & 1 for kind in kinds) else None
    bounds = codes["cat_boundaries"]
    if len(bounds) != n_codes + 1 or bounds[0] != 0 or any(b <= a for a, b in itertools.pairwise(bounds)):
        return "sets of codes must have rising bounds"
    if bounds[-1] != len(codes["cat_threshold"]) or not all(0 <= bits < 2**32 for bits in codes["cat_threshold"]):
        return "sets of codes must be complete"
    try:
        sets = [float(at) for at, kind in zip(splits["threshold"], kinds, strict=True) if kind & 1]
    except ValueError as error:
        return f"got {truncate_repr(error, 80)}"
    return None if all(at in range(n_codes) for at in sets) else "a split must name one of the sets of codes"


INTEGER_FIELDS = ("split_feature", "left_child", "right_child", "decision_type")
SPLIT_FIELDS = (*INTEGER_FIELDS, "threshold", "internal_count")
LEAF_FIELDS = ("leaf_value", "leaf_count")
OPTIONAL_FIELDS = {"leaf_weight": 0, "internal_weight": -1, "internal_value": -1, "split_gain": -1}
"""Fields that LightGBM reads if they are there, and how many values they have beyond the number of leaves."""
CODE_FIELDS = ("cat_boundaries", "cat_threshold")
