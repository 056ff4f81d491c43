"""A process to kill: it scores payments through a desk and says which are acknowledged, a line each, as it goes.

python killed.py BUNDLE LOG URL CLOCK
"""

from __future__ import annotations

import os
import sys

import polars as pl
import torch
from history_case import request

from tsa.scoring.scorer import Scorer
from tsa.serving.desk import Answer, Desk
from tsa.serving.history_store import open_history


def main(bundle: str, log: str, url: str, first: int) -> None:
    torch.set_num_threads(1)
    rows = pl.read_parquet(log).to_dicts()
    desk = Desk(Scorer.load(bundle), open_history(url))
    for at in range(first, len(rows), 2):
        for answer in desk.score([request(row) for row in rows[at : at + 2]]):
            assert isinstance(answer, Answer), answer
            os.write(1, f"{answer.id} {answer.raw_score!r}\n".encode())
    os.write(1, b"end\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
