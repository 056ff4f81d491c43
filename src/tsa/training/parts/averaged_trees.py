"""Average several models of trees: one text in LightGBM's format, whose log odds are the mean of theirs.

Boosting draws other columns with another seed. The mean of a few such models is more accurate than any of them, and each
leaf only has to be divided by their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, Context

import numpy as np

from tsa.errors import ModelError

FIRST, END = "\nTree=0\n", "end of trees\n"
NOT_READ = ("leaf_weight", "internal_weight", "internal_value")
"""Lines that neither log odds nor contributions read: a third of the text."""
DIGITS = [Context(prec=digits, rounding=ROUND_CEILING) for digits in range(1, 17)]
FOOT = "\nfeature_importances:\n\nparameters:\nend of parameters\n\npandas_categorical:null\n"


def averaged(texts: Sequence[str]) -> str:
    """One text model with the trees of all `texts`, in their order. They must read the same columns.

    Raises:
        ModelError: If a text is not a model of LightGBM, or columns differ.
    """
    if len(texts) == 1:
        return texts[0]
    heads = [_head(text) for text in texts]
    if not texts or any(head != heads[0] for head in heads):
        raise ModelError("trees that are averaged must read the same columns")
    blocks = [block for text in texts for block in _blocks(text, len(texts))]
    blocks = [f"Tree={number}\n{block}" for number, block in enumerate(blocks)]
    sizes = " ".join(str(len(block.encode())) for block in blocks)
    return f"{heads[0]}\ntree_sizes={sizes}\n\n{''.join(blocks)}{END}{FOOT}"


def _head(text: str) -> str:
    """The lines before the trees, without the sizes of these."""
    head, _, trees = text.partition(FIRST)
    if not head.startswith("tree\n") or END not in trees:
        raise ModelError("the trees must be a text model of LightGBM with at least one tree")
    return "\n".join(line for line in head.splitlines() if not line.startswith("tree_sizes=")).rstrip("\n")


def _blocks(text: str, count: int) -> Iterator[str]:
    """The lines of each tree after its number that are read, with its leaves divided by `count`."""
    trees = text[text.index(FIRST) + 1 : text.index(END)]
    for block in trees.split("Tree=")[1:]:
        lines = block.split("\n")[1:]
        yield "\n".join(_written(line, count) for line in lines if line.partition("=")[0] not in NOT_READ)


def _written(line: str, count: int) -> str:
    """A line of a tree, its numbers with no more digits than matter: they are half of the text."""
    name, equals, values = line.partition("=")
    if not equals or name not in ("leaf_value", "threshold"):
        return line
    try:
        numbers = np.array(values.split(), np.float64)
    except ValueError as error:
        raise ModelError(f"{name} of the trees must hold numbers ({error})") from None
    if name == "leaf_value":
        return f"{name}={' '.join(f'{value:.9g}' for value in numbers / count)}"
    return f"{name}={' '.join(map(short_threshold, numbers.tolist()))}"


def short_threshold(value: float) -> str:
    """The shortest decimal number that float32 numbers are below, or not, exactly as they are below `value`."""
    limit = _largest_float32(value)
    texts = (repr(float(context.create_decimal_from_float(float(limit)))) for context in DIGITS)
    return next((text for text in texts if _largest_float32(float(text)) == limit), repr(value))


def _largest_float32(limit: float) -> np.float32:
    """The largest float32 that is not above the limit."""
    with np.errstate(over="ignore"):
        nearest = np.float32(limit)
    return np.nextafter(nearest, np.float32(-np.inf)) if float(nearest) > limit else nearest
