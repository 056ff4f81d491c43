"""Processes to kill: each scores payments through a scoring service and says which are acknowledged, a line each, as it goes.

    python -m support.killed_scorer BUNDLE LOG URL

Loads everything once, then forks a process for each line "FIRST" of its input, which scores from payment FIRST on. Its
output: "pid PID", then the acknowledged payments, then "gone".
"""

from __future__ import annotations

import os
import sys

import polars as pl
import torch

from support.history_case import request
from tsa.inference.scorer import Scorer
from tsa.serving.history.factory import open_history
from tsa.serving.scoring.scoring_service import ScoreResult, ScoringService


def main(bundle: str, log: str, url: str) -> None:
    torch.set_num_threads(1)
    scorer, rows = Scorer.load(bundle), [request(row) for row in pl.read_parquet(log).to_dicts()]
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            score(scorer, rows, url, int(line))
            os._exit(0)
        say(f"pid {pid}")
        os.waitpid(pid, 0)
        say("gone")


def score(scorer: Scorer, rows: list[dict[str, object]], url: str, first: int) -> None:
    scoring_service = ScoringService(scorer, open_history(url))
    for at in range(first, len(rows), 2):
        for answer in scoring_service.score(rows[at : at + 2]):
            if not isinstance(answer, ScoreResult):
                return  # the store is down
            say(f"{answer.id} {answer.raw_score!r}")


def say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
