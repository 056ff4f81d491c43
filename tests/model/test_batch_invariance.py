from __future__ import annotations

import pytest
import torch

from tsa.model.batch_invariance import MIN_ROWS, pad_rows
from tsa.model.moe import Experts


@pytest.mark.parametrize(
    ("chosen", "n", "length"), [([], 9, 0), ([3], 9, 9), ([3, 5], 500, MIN_ROWS), ([1] * 40, 500, 40)]
)
def test_copies_of_the_last_row_fill_up(chosen, n, length):
    found = pad_rows(torch.tensor(chosen, dtype=torch.int64), n).tolist()
    assert len(found) == length
    assert found[: len(chosen)] == chosen
    assert set(found[len(chosen) :]) <= set(chosen[-1:])


def test_an_expert_gives_the_same_to_the_bit_however_many_it_serves():
    torch.manual_seed(0)
    x = torch.randn(400, 64)
    for experts in (Experts(3, 64, 16), Experts(3, 64, 128)):
        every = experts(x, torch.ones(400, 3))
        for served in (1, 2, 3, 8, 9, 31, 200):
            weights = torch.zeros(400, 3)
            weights[:served] = 1
            assert torch.equal(experts(x, weights)[:served], every[:served])
