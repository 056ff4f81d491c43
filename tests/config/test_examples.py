"""The example market files of the package."""

from __future__ import annotations

import pytest

from tsa.config.examples import example_markets, example_text
from tsa.errors import ConfigError


def test_each_says_what_it_is_for() -> None:
    found = {market.name: market for market in example_markets()}
    assert found["demo"].histories == ("customer", "terminal")
    assert found["base"].histories == ()
    assert all(len(market.about) > 20 for market in found.values())


def test_the_text_is_that_of_the_file() -> None:
    assert 'name = "cards"' in example_text("cards")
    with pytest.raises(ConfigError, match="must be one of accounts, base"):
        example_text("../config")
