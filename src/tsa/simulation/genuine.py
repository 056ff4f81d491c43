"""Ordinary payments: who pays when, where and how much. Its helpers are also used to generate fraud."""

from __future__ import annotations

import numpy as np

from tsa.simulation import distributions
from tsa.simulation.config import SECONDS_A_DAY, SimulationConfig
from tsa.simulation.payments import SimulatedPayments
from tsa.simulation.population import FAVOURITES, Population

_SPREAD = np.array([category.spread for category in distributions.CATEGORIES])
_DEAR = np.array([category.typical_amount > 45 for category in distributions.CATEGORIES])
_CASH = distributions.CATEGORY_NAMES.index("cash_withdrawal")


def payments_a_day(config: SimulationConfig, total: int) -> np.ndarray:
    """Number of ordinary payments per day (days,): weekly pattern, slow growth and noise; the sum is exactly `total`."""
    rng, days = config.generator("days"), np.arange(config.days)
    weight = distributions.WEEKDAYS[(days + config.first_weekday) % 7] * (1.0 + 0.1 * days / config.days)
    weight *= rng.lognormal(0.0, 0.04, config.days)
    return rng.multinomial(total, weight / weight.sum())


def everyday(
    config: SimulationConfig, people: Population, days: np.ndarray, rng: np.random.Generator
) -> SimulatedPayments:
    """One ordinary payment for each entry of days (n,), on that day."""
    customer = people.customers.by_country.draw_any(rng, len(days))
    terminal = _usual_terminal(people, customer, days, rng)
    seconds = days * float(SECONDS_A_DAY) + time_of_day(people, customer, terminal, rng)
    channel = usual_channel(people, customer, terminal, rng)
    return SimulatedPayments(
        customer=customer,
        card=usual_card(people, customer, rng),
        terminal=terminal,
        seconds=seconds,
        amount=usual_amount(config, people, customer, terminal, seconds, rng),
        channel=channel,
        device=usual_device(people, customer, channel, seconds, rng),
        kind=np.zeros(len(days), dtype=np.int8),
    )


def _usual_terminal(people: Population, customer: np.ndarray, days: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Usually a favourite, sometimes another one at home or on the web; on a trip, one of the visited country."""
    customers, terminals = people.customers, people.terminals
    rank = (FAVOURITES * rng.random(len(customer)) ** 1.8).astype(np.int64)
    chosen = customers.favourites[customer, rank]
    whim = rng.random(len(customer))
    home = whim < 0.22
    chosen[home] = terminals.by_country.draw(rng, customers.country[customer[home]])
    web = (whim >= 0.22) & (whim < 0.30)
    chosen[web] = terminals.by_online.draw(rng, np.ones(int(web.sum()), dtype=np.int64))
    noon = days * float(SECONDS_A_DAY) + SECONDS_A_DAY / 2
    away = (noon >= customers.trip_first_seconds[customer]) & (noon < customers.trip_last_seconds[customer])
    away &= (whim > 0.4) | ~terminals.online[chosen]
    chosen[away] = terminals.by_country.draw(rng, customers.trip_country[customer[away]])
    return np.asarray(chosen)


def time_of_day(people: Population, customer: np.ndarray, terminal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Seconds within the day (n,): the daily pattern of shops or of the web, shifted by the customer's usual hours."""
    online = people.terminals.online[terminal]
    chance = rng.random(len(customer))
    hours = np.where(online, _hours(chance, distributions.ONLINE_HOURS), _hours(chance, distributions.STORE_HOURS))
    hours += people.customers.shift_hours[customer] * np.where(online, 1.0, 0.5)
    return np.asarray(hours % 24.0 * 3600.0)


def _hours(chance: np.ndarray, weights: np.ndarray) -> np.ndarray:
    cumulated = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()
    return np.asarray(np.interp(chance, cumulated, np.arange(25.0)))


def usual_card(people: Population, customer: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The first card with probability 3/4, else any card of the customer."""
    other = (rng.random(len(customer)) * people.customers.cards[customer]).astype(np.int64)
    return np.asarray(people.customers.first_card[customer] + np.where(rng.random(len(customer)) < 0.75, 0, other))


def usual_channel(
    people: Population, customer: np.ndarray, terminal: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The app according to the customer's habit, else the terminal's channel."""
    app = rng.random(len(customer)) < people.customers.app_habit[customer]
    return np.where(
        app, distributions.APP, np.where(people.terminals.online[terminal], distributions.ONLINE, distributions.STORE)
    )


def usual_device(
    people: Population, customer: np.ndarray, channel: np.ndarray, seconds: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The customer's device (n,), −1 with a plastic card in a shop; one in a thousand is unusual."""
    customers = people.customers
    column = np.where(rng.random(len(customer)) < 0.15, 1, np.where(seconds > customers.switch_seconds[customer], 2, 0))
    device = customers.devices[customer, column].astype(np.int64)
    is_rare = rng.random(len(customer)) < 0.001
    first_rare = len(distributions.DEVICES) - len(distributions.RARE_DEVICES)
    device[is_rare] = rng.integers(first_rare, len(distributions.DEVICES), int(is_rare.sum()))
    device[channel == distributions.STORE] = -1
    return np.asarray(device)


def usual_amount(
    config: SimulationConfig,
    people: Population,
    customer: np.ndarray,
    terminal: np.ndarray,
    seconds: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Depends on the terminal's prices, the customer's means, evening and weekend; sometimes an expensive purchase or a
    price point."""
    n, category = len(customer), people.terminals.category[terminal]
    log_amount = people.terminals.log_price[terminal] + people.customers.log_wealth[customer]
    log_amount += _SPREAD[category] * rng.standard_normal(n)
    weekday = (seconds // SECONDS_A_DAY + config.first_weekday) % 7
    log_amount += 0.12 * (weekday >= 4) + 0.08 * (seconds % SECONDS_A_DAY > 17 * 3600)
    seldom = rng.random(n)
    log_amount += np.where(seldom < 0.006, rng.uniform(1.2, 2.4, n), 0.0)
    amount = np.exp(log_amount)
    priced = (seldom > 0.99) & _DEAR[category]
    amount[priced] = below_a_limit(rng, int(priced.sum()), 0.02)
    notes = np.maximum(10.0, np.rint(amount / 10.0) * 10.0)
    return np.asarray(np.where(category == _CASH, notes, amount))


def below_a_limit(rng: np.random.Generator, n: int, share: float) -> np.ndarray:
    """Amounts (n,) below a price limit by about that share of it."""
    return np.asarray(
        rng.choice(distributions.PRICE_LIMITS, n, p=[0.45, 0.4, 0.15]) * (1.0 - rng.exponential(share, n))
    )
