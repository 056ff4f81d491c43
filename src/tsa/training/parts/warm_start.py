"""Start a network from the weights of an earlier one, whose vocabularies were fitted on other payments.

The rows of the embedding table are matched by value. A value that the earlier network did not know starts as "unknown" did
there, so that the scores of its payments begin where they were. All other weights are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tsa.bundle.bundle import Bundle
from tsa.data.encoding.encoder import Encoder
from tsa.data.encoding.vocabulary import ImportedVocabulary, Vocabulary
from tsa.model import ModelConfig, TSANetwork
from tsa.value_differences import differences

TABLE = "table.weight"
SIZES = ("n_embedding", "name", "parts", "n_tree_ensemble")
"""Settings in which the two networks may differ."""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The model to start from; None: there is none that can be used, for a `reason`."""

    bundle: Bundle | None
    name: str = ""
    """What it is called in run.json."""
    reason: str = ""

    def apply(self, network: TSANetwork, encoder: Encoder) -> dict[str, Any]:
        """Copy the weights into a network, if both have the same shape.

        Args:
            network: The network to start; its weights change.
            encoder: That of the network.

        Returns:
            For run.json: `from`, `weights` (the hash of the earlier model), and how many `values` of categorical features
            were known to it and how many are `new`; or `fresh`, the reason why no weights were taken.
        """
        if self.bundle is None:
            return {"fresh": self.reason}
        if (reason := _differs(self.bundle, network.config, encoder)) is not None:
            return {"fresh": f"{reason} ({self.name}, then this)"}
        rows, new = _matched(self.bundle.encoder, encoder, network.config)
        earlier = dict(self.bundle.network.state_dict())
        earlier[TABLE] = earlier[TABLE][torch.tensor(rows)]
        network.load_state_dict(earlier)
        known = sum(len(vocabulary.values) for vocabulary in encoder.vocabularies) - new
        return {"from": self.name, "weights": self.bundle.model_sha256, "values": known, "new": new}


def _differs(bundle: Bundle, config: ModelConfig, encoder: Encoder) -> str | None:
    """Why the weights do not fit; None if they do."""
    ours, theirs = ({k: v for k, v in one.to_dict().items() if k not in SIZES} for one in (config, bundle.config))
    if lines := list(differences(theirs, ours)):
        return f"the networks differ in {'; '.join(lines)}"
    if lines := list(differences(bundle.encoder.columns, encoder.columns)):
        return f"the features differ in {'; '.join(lines)}"
    if any(isinstance(one, ImportedVocabulary) for one in (*bundle.encoder.vocabularies, *encoder.vocabularies)):
        return "values with rows of another system cannot be matched"
    return None


def _matched(earlier: Encoder, encoder: Encoder, config: ModelConfig) -> tuple[list[int], int]:
    """For each row of the new table the row of the earlier one, and how many values are new."""
    rows, new = [0], 0
    for old, own in zip(_blocks(earlier), _blocks(encoder), strict=True):
        at = {value: old.known_row + number for number, value in enumerate(old.values)}
        rows += [old.missing_row, old.unknown_row, *(at.get(value, old.unknown_row) for value in own.values)]
        new += sum(value not in at for value in own.values)
    # the rows of the numerical features, and the last one
    return [*rows, *range(earlier.n_rows, earlier.n_rows + config.n_numerical + 1)], new


def _blocks(encoder: Encoder) -> Iterator[Vocabulary]:
    yield from (one for one in encoder.vocabularies if isinstance(one, Vocabulary))
