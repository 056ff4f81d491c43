"""The population: customers with cards, devices and habits; terminals with a country, a category and prices.

A few hundred bytes per customer and terminal; all payments are drawn from these tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tsa.simulation import distributions
from tsa.simulation.config import SimulationConfig

COPIES = 20  # slots of an average member of a pool: the resolution of its weight
FAVOURITES = 8


class WeightedPool:
    """Draws members by weight within a group with one look-up: the slots of a member are proportional to its weight."""

    def __init__(self, group: np.ndarray, weight: np.ndarray, n_groups: int) -> None:
        copies = np.maximum(1, np.rint(weight / weight.mean() * COPIES)).astype(np.int64)
        order = np.argsort(group, kind="stable")
        self._slots = np.repeat(order, copies[order]).astype(np.int32)
        self._sizes = np.bincount(group, weights=copies, minlength=n_groups).astype(np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def draw(self, rng: np.random.Generator, group: np.ndarray) -> np.ndarray:
        """One member (n,) for each requested group (n,); from all members if a group is empty."""
        sizes = self._sizes[group]
        empty = sizes == 0
        starts = np.where(empty, 0, self._starts[group])
        sizes = np.where(empty, len(self._slots), sizes)
        return np.asarray(self._slots[starts + (rng.random(len(group)) * sizes).astype(np.int64)])

    def draw_any(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Members (n) of all groups."""
        return np.asarray(self._slots[rng.integers(0, len(self._slots), n)])


@dataclass(frozen=True, kw_only=True)
class Terminals:
    """m terminals, each array (m); log_price of an ordinary payment there, number as shown in the log."""

    country: np.ndarray
    category: np.ndarray
    online: np.ndarray
    log_price: np.ndarray
    number: np.ndarray
    by_country: WeightedPool
    by_category: WeightedPool
    by_online: WeightedPool
    by_appeal: WeightedPool  # grouped by online, weighted by appeal to thieves


@dataclass(frozen=True, kw_only=True)
class Customers:
    """c customers, each array (c), but devices (c, 3): usual, second, bought at switch_seconds; favourites (c, 8)."""

    country: np.ndarray
    log_wealth: np.ndarray
    shift_hours: np.ndarray
    app_habit: np.ndarray
    opened_days: np.ndarray  # before the period
    cards: np.ndarray
    first_card: np.ndarray
    devices: np.ndarray
    switch_seconds: np.ndarray
    trip_first_seconds: np.ndarray
    trip_last_seconds: np.ndarray
    trip_country: np.ndarray
    favourites: np.ndarray
    by_country: WeightedPool
    by_youth: WeightedPool  # group 0: the youngest fifth of the accounts


@dataclass(frozen=True, kw_only=True)
class Population:
    """The tables that payments are drawn from."""

    customers: Customers
    terminals: Terminals


def populate(config: SimulationConfig) -> Population:
    """Draw all customers and terminals of a simulation."""
    n_countries = int(np.clip(config.n_terminals // 8, 1, len(distributions.COUNTRIES)))
    terminals = _terminals(config, n_countries)
    return Population(customers=_customers(config, terminals, n_countries), terminals=terminals)


def _terminals(config: SimulationConfig, n_countries: int) -> Terminals:
    rng, n = config.generator("terminals"), config.n_terminals
    weights = np.array([category.weight for category in distributions.CATEGORIES])
    category = rng.choice(len(weights), n, p=weights / weights.sum()).astype(np.int16)
    country = rng.choice(n_countries, n, p=distributions.zipf(n_countries, 1.1)).astype(np.int16)
    online = rng.random(n) < np.array([c.online for c in distributions.CATEGORIES])[category]
    typical = np.log([c.typical_amount for c in distributions.CATEGORIES])[category]
    visits = rng.lognormal(0.0, 1.3, n)
    appeal = np.array([c.appeal for c in distributions.CATEGORIES])[category]
    return Terminals(
        country=country,
        category=category,
        online=online,
        log_price=typical + rng.normal(0.0, 0.3, n),
        number=rng.permutation(n) + 1,
        by_country=WeightedPool(country, visits, n_countries),
        by_category=WeightedPool(category, visits, len(weights)),
        by_online=WeightedPool(online.astype(np.int64), visits, 2),
        by_appeal=WeightedPool(online.astype(np.int64), np.sqrt(visits) * appeal, 2),
    )


def _customers(config: SimulationConfig, terminals: Terminals, n_countries: int) -> Customers:
    rng, n = config.generator("customers"), config.n_customers
    country = rng.choice(n_countries, n, p=distributions.zipf(n_countries, 1.1)).astype(np.int16)
    activity = rng.lognormal(0.0, 1.15, n)
    cards = 1 + (rng.random(n) < 0.3) + (rng.random(n) < 0.1)
    opened = 5.0 + rng.exponential(700.0, n)
    trip_first = np.where(rng.random(n) < 0.35, rng.random(n), 9.0) * config.period_seconds
    devices, switch = _devices(config.generator("devices"), n, config.period_seconds)
    return Customers(
        country=country,
        log_wealth=rng.normal(0.0, 0.45, n),
        shift_hours=rng.normal(0.0, 1.8, n),
        app_habit=rng.beta(0.6, 1.6, n),
        opened_days=opened,
        cards=cards,
        first_card=np.cumsum(cards) - cards,
        devices=devices,
        switch_seconds=switch,
        trip_first_seconds=trip_first,
        trip_last_seconds=trip_first + rng.uniform(2.0, 15.0, n) * 86_400,
        trip_country=rng.integers(0, n_countries, n).astype(np.int16),
        favourites=_favourites(config.generator("favourites"), country, terminals),
        by_country=WeightedPool(country, activity, n_countries),
        by_youth=WeightedPool((opened > np.quantile(opened, 0.2)).astype(np.int64), activity, 2),
    )


def _devices(rng: np.random.Generator, n: int, period_seconds: int) -> tuple[np.ndarray, np.ndarray]:
    """Devices (n, 3) and when the third replaces the first; the device that is released late is bought only then."""
    common = len(distributions.COMMON_DEVICES)
    devices = rng.choice(common, (n, 3), p=distributions.zipf(common, 0.9)).astype(np.int16)
    devices[:, 1] = np.where(rng.random(n) < 0.4, devices[:, 1], devices[:, 0])
    switch = np.where(rng.random(n) < 0.25, rng.random(n), 9.0) * period_seconds
    late = (switch > 0.65 * period_seconds) & (rng.random(n) < 0.3)
    devices[late, 2] = distributions.DEVICES.index(distributions.NEW_DEVICE)
    return devices, switch


def _favourites(rng: np.random.Generator, country: np.ndarray, terminals: Terminals) -> np.ndarray:
    """Terminals (c, 8) that customers return to: at home, and one in four on the web in any country."""
    columns = []
    for _ in range(FAVOURITES):
        web = terminals.by_online.draw(rng, np.ones(len(country), dtype=np.int64))
        home = terminals.by_country.draw(rng, country)
        columns.append(np.where(rng.random(len(country)) < 0.25, web, home))
    return np.stack(columns, axis=1).astype(np.int32)
