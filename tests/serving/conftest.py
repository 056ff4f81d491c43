"""What tests of the history store and the scoring service share: a log, a bundle with random weights, and both engines.

Redis is the real server, started on a free loopback port with its files in a temporary folder.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _single_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
