"""The kinds of fraud, and genuine behaviour that resembles them: a few percent of a log, drawn together.

Most fraudulent payments look ordinary alone; earlier payments of the same customer or terminal reveal them.
"""

from __future__ import annotations

import numpy as np

from tsa.simulation import distributions, genuine
from tsa.simulation.campaigns import Campaigns, burst_seconds, window_days, window_seconds
from tsa.simulation.config import SimulationConfig
from tsa.simulation.payments import SimulatedPayments
from tsa.simulation.population import Population

_SHARES = {
    "stolen_card": 0.30,
    "compromised_terminal": 0.27,
    "account_takeover": 0.20,
    "amount_rule": 0.08,
    "drifting_ring": 0.15,
}
FRAUD_KINDS = tuple(_SHARES)
LOOKALIKE_SHARE = 0.02  # of genuine payments
_RING_SIZE, _RING_SHOPS, _RING_DEVICES = 150, 3, 2  # payments of a fraud ring; its shops and devices at each stage


def special_payments(config: SimulationConfig, people: Population) -> SimulatedPayments:
    """All frauds, and the genuine payments that resemble fraud, in time order."""
    counts = _counts(config.n_frauds)
    n_lookalikes = round((config.payments - config.n_frauds) * LOOKALIKE_SHARE)
    parts = [
        _stolen_card(config, people, counts[0]),
        _compromised_terminal(config, people, counts[1]),
        _account_takeover(config, people, counts[2]),
        _amount_rule(config, people, counts[3]),
        _drifting_ring(config, people, counts[4]),
        _shopping_spree(config, people, n_lookalikes - n_lookalikes // 3),
        _busy_terminal(config, people, n_lookalikes // 3),
    ]
    return SimulatedPayments.join(parts).by_time()


def _counts(total: int) -> list[int]:
    """Number of payments of each kind, by its share; the sum is exactly `total`."""
    ends = np.rint(np.cumsum(list(_SHARES.values())) / sum(_SHARES.values()) * total).astype(int)
    return [int(count) for count in np.diff(ends, prepend=0)]


def _payments(
    config: SimulationConfig, people: Population, rng: np.random.Generator, **known: np.ndarray
) -> SimulatedPayments:
    """Payments of customers at terminals, with the usual values unless given. Amounts are at least one cent."""
    customer, terminal, seconds = known["customer"], known["terminal"], known["seconds"]
    channel = known.get("channel", genuine.usual_channel(people, customer, terminal, rng))
    usual = genuine.usual_amount(config, people, customer, terminal, seconds, rng)
    return SimulatedPayments(
        customer=customer,
        card=known.get("card", genuine.usual_card(people, customer, rng)),
        terminal=terminal,
        seconds=seconds,
        amount=known.get("amount", usual) * known.get("times", np.ones(len(usual))),
        channel=channel,
        device=known.get("device", genuine.usual_device(people, customer, channel, seconds, rng)),
        kind=np.full(len(customer), int(known.get("kind", np.int64(0))), dtype=np.int8),
    )


def _kind(name: str) -> np.ndarray:
    return np.array(FRAUD_KINDS.index(name) + 1)


def _stolen_card(config: SimulationConfig, people: Population, n: int) -> SimulatedPayments:
    """A burst on one card within hours: on the web, or in the shops of one country; often a small test payment first."""
    rng = config.generator("stolen_card")
    bursts = Campaigns.draw(rng, n, 2, 6.0)
    victim = people.customers.by_country.draw_any(rng, bursts.k)
    card = people.customers.first_card[victim] + (rng.random(bursts.k) * people.customers.cards[victim]).astype(int)
    remote = (rng.random(bursts.k) < 0.6)[bursts.of]
    at_home = rng.random(bursts.k) < 0.5
    anywhere = people.terminals.country[people.terminals.by_country.draw_any(rng, bursts.k)]
    country = np.where(at_home, people.customers.country[victim], anywhere)
    web = people.terminals.by_appeal.draw(rng, np.ones(n, dtype=np.int64))
    terminal = np.where(remote, web, people.terminals.by_country.draw(rng, country[bursts.of]))
    thief_device = rng.integers(0, len(distributions.COMMON_DEVICES), bursts.k)[bursts.of]
    tries = (rng.random(bursts.k) < 0.4)[bursts.of] & (bursts.step == 0)
    times = np.where(tries, 0.1, rng.lognormal(0.25, 0.5, n) * (1.0 + 0.08 * np.minimum(bursts.step, 8)))
    return _payments(
        config,
        people,
        rng,
        customer=victim[bursts.of],
        card=card[bursts.of],
        terminal=terminal,
        seconds=burst_seconds(config, rng, bursts, 1500.0, 1.1),
        channel=np.where(people.terminals.online[terminal], distributions.ONLINE, distributions.STORE),
        device=np.where(people.terminals.online[terminal], thief_device, -1),
        times=times,
        kind=_kind("stolen_card"),
    )


def _compromised_terminal(config: SimulationConfig, people: Population, n: int) -> SimulatedPayments:
    """For some weeks a terminal accepts payments with copied cards, with ordinary amounts and hours."""
    rng = config.generator("compromised_terminal")
    windows = Campaigns.draw(rng, n, 15, 40.0)
    terminal = rng.integers(0, len(people.terminals.country), windows.k)[windows.of]  # most are small
    customer = people.customers.by_country.draw(rng, people.terminals.country[terminal])
    days = window_days(config, rng, windows, 14.0, 30.0)
    within = genuine.time_of_day(people, customer, terminal, rng)
    return _payments(
        config,
        people,
        rng,
        customer=customer,
        terminal=terminal,
        seconds=window_seconds(days, within),
        times=rng.lognormal(0.2, 0.4, n),
        kind=_kind("compromised_terminal"),
    )


def _account_takeover(config: SimulationConfig, people: Population, n: int) -> SimulatedPayments:
    """An unknown device pays on the web for some days, half of the time where the customer does, slightly higher amounts."""
    rng = config.generator("account_takeover")
    bursts = Campaigns.draw(rng, n, 3, 8.0)
    victim = people.customers.by_country.draw_any(rng, bursts.k)
    device = rng.integers(0, len(distributions.COMMON_DEVICES), bursts.k)[bursts.of]
    customer = victim[bursts.of]
    usual = people.customers.favourites[customer, rng.integers(0, people.customers.favourites.shape[1], n)]
    web = people.terminals.by_online.draw(rng, np.ones(n, dtype=np.int64))
    terminal = np.where(people.terminals.online[usual] & (rng.random(n) < 0.6), usual, web)
    app = (rng.random(bursts.k) < 0.4)[bursts.of]
    return _payments(
        config,
        people,
        rng,
        customer=customer,
        terminal=terminal,
        seconds=burst_seconds(config, rng, bursts, 2.5 * 3600.0, 1.1),
        channel=np.where(app, distributions.APP, distributions.ONLINE),
        device=device,
        times=rng.lognormal(0.7, 0.5, n),
        kind=_kind("account_takeover"),
    )


def _amount_rule(config: SimulationConfig, people: Population, n: int) -> SimulatedPayments:
    """Single payments just below the amount above which they would be checked."""
    rng = config.generator("amount_rule")
    customer = people.customers.by_country.draw_any(rng, n)
    terminal = people.terminals.by_appeal.draw(rng, (rng.random(n) < 0.7).astype(np.int64))
    days = np.floor(rng.random(n) * config.days)
    within = genuine.time_of_day(people, customer, terminal, rng)
    return _payments(
        config,
        people,
        rng,
        customer=customer,
        terminal=terminal,
        seconds=window_seconds(days, within),
        amount=genuine.below_a_limit(rng, n, 0.008),
        kind=_kind("amount_rule"),
    )


def _drifting_ring(config: SimulationConfig, people: Population, n: int) -> SimulatedPayments:
    """Fraud rings that use young accounts for some days each; their shops, goods, devices and amounts drift over time."""
    rng = config.generator("drifting_ring")
    rings = max(1, n // _RING_SIZE)
    mules = Campaigns.draw(rng, n, 2, 5.0)
    ring = rng.integers(0, rings, mules.k)[mules.of]
    young = people.customers.by_youth.draw(rng, np.zeros(mules.k, dtype=np.int64))[mules.of]
    seconds = burst_seconds(config, rng, mules, 9.0 * 3600.0, 1.0)
    progress = seconds / config.period_seconds
    stage = np.clip(
        progress * len(distributions.DRIFT) + rng.normal(0.0, 0.3, n), 0, len(distributions.DRIFT) - 1e-9
    ).astype(int)
    category = np.tile([distributions.CATEGORY_NAMES.index(name) for name in distributions.DRIFT], rings * _RING_SHOPS)
    shops = people.terminals.by_category.draw(rng, category).reshape(rings, _RING_SHOPS, len(distributions.DRIFT))
    devices = rng.integers(0, len(distributions.COMMON_DEVICES), (rings, _RING_DEVICES, len(distributions.DRIFT)))
    terminal = shops[ring, rng.integers(0, _RING_SHOPS, n), stage].astype(np.int64)
    return _payments(
        config,
        people,
        rng,
        customer=young,
        terminal=terminal,
        seconds=seconds,
        channel=np.where(rng.random(n) < 0.7, distributions.ONLINE, distributions.APP),
        device=devices[ring, rng.integers(0, _RING_DEVICES, n), stage],
        amount=np.exp(np.log(30.0) + 1.5 * progress + rng.normal(0.0, 0.5, n)),
        kind=_kind("drifting_ring"),
    )


def _shopping_spree(config: SimulationConfig, people: Population, n: int) -> SimulatedPayments:
    """Genuine: a customer buys several things within hours, many of them on the web."""
    rng = config.generator("shopping_spree")
    sprees = Campaigns.draw(rng, n, 3, 5.0)
    customer = people.customers.by_country.draw_any(rng, sprees.k)[sprees.of]
    remote = rng.random(n) < (rng.random(sprees.k) < 0.5)[sprees.of] * 0.9
    web = people.terminals.by_appeal.draw(rng, np.ones(n, dtype=np.int64))
    home = people.terminals.by_country.draw(rng, people.customers.country[customer])
    seconds = burst_seconds(config, rng, sprees, 1800.0, 1.0)
    return _payments(config, people, rng, customer=customer, terminal=np.where(remote, web, home), seconds=seconds)


def _busy_terminal(config: SimulationConfig, people: Population, n: int) -> SimulatedPayments:
    """Genuine: a terminal has a sale for some weeks."""
    rng = config.generator("busy_terminal")
    windows = Campaigns.draw(rng, n, 10, 25.0)
    terminal = people.terminals.by_online.draw_any(rng, windows.k)[windows.of]
    customer = people.customers.by_country.draw(rng, people.terminals.country[terminal])
    days = window_days(config, rng, windows, 5.0, 25.0)
    within = genuine.time_of_day(people, customer, terminal, rng)
    return _payments(config, people, rng, customer=customer, terminal=terminal, seconds=window_seconds(days, within))
