"""What a worker process does in tests. Imports nothing that takes seconds."""

from __future__ import annotations

from tsa.progress import Progress


def squared(number: int, progress: Progress) -> int:
    with progress(f"number {number}", 2) as advance:
        advance(1)
        advance(1)
    if number < 0:
        raise ValueError("too low")
    return number * number
