"""Score the payments of a file of JSON lines at a running endpoint, in lists, and print a line for each.

    pip install ./clients/python
    tsa serve run/bundle --history sqlite:///histories.db --new-store &
    python examples/score_payments.py payments.jsonl --url http://127.0.0.1:8080 > scores.jsonl

The token, where the endpoint asks for one, is read from TSA_TOKEN. Exit code 1 if a payment was refused.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tsa_client import Client, EndpointError, Problem


def lists(path: Path, size: int) -> Iterator[list[dict[str, object]]]:
    """The file's payments, `size` at a time."""
    with path.open(encoding="utf-8") as lines:
        payments = (json.loads(line) for line in lines if line.strip())
        while found := list(islice(payments, size)):
            yield found


def main() -> int:
    """Score them all."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("payments", type=Path)
    options.add_argument("--url", default="http://127.0.0.1:8080")
    options.add_argument("--size", type=int, default=50, help="payments in a request")
    options.add_argument("--deadline", type=float, default=10.0, help="seconds for a request, retries included")
    given = options.parse_args()
    refused = 0
    with Client(given.url, token=os.environ.get("TSA_TOKEN"), deadline_seconds=given.deadline) as client:
        for payments in lists(given.payments, given.size):
            for answer in client.score_many(payments):
                if isinstance(answer, Problem):
                    refused += 1
                    print(json.dumps({"problem": answer.rule, "field": answer.field, "detail": answer.detail}))
                else:
                    found = {"id": answer.id, "raw_score": answer.raw_score, "percentile": answer.percentile}
                    print(json.dumps({**found, "probability": answer.probability, "decision": answer.decision}))
    return 1 if refused else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EndpointError as error:
        sys.exit(f"{type(error).__name__}: {error}")
