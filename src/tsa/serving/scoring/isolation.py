"""Payments over the desk, such that one that fails does not fail the others. It knows no server."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tsa.data.online.payments import Problem
from tsa.errors import DataError, HistoryUnavailable
from tsa.serving.errors import where
from tsa.serving.request_schema import Entry
from tsa.serving.results import Answer
from tsa.serving.scoring.scoring_service import Desk

logger = logging.getLogger(__name__)


def score_apart(desk: Desk, entries: Sequence[Entry]) -> list[Answer | Problem]:
    """An answer or a problem for each. Raises HistoryUnavailable, and what is a fault of the program."""
    try:
        return desk.score([entry.row for entry in entries], [entry.histories for entry in entries])
    except HistoryUnavailable:
        raise
    except Exception as error:
        if len(entries) > 1:  # whatever it is: one payment must not fail those that share its batch
            return [result for entry in entries for result in score_apart(desk, [entry])]
        if not isinstance(error, DataError):
            raise
        logger.warning("a payment cannot be scored: %s", where(error))
        return [Problem("no_score", "payment", "must be one that can be scored", "it cannot")]
