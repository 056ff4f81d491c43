"""Names and distributions that the simulator draws from: categories, countries, devices, hours. All are invented."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Category(NamedTuple):
    """A kind of merchant. appeal: how attractive it is to thieves; online: share of its merchants that sell on the web."""

    name: str
    weight: float
    online: float
    typical_amount: float
    spread: float  # standard deviation of the log amount
    appeal: float


CATEGORIES = (
    Category("groceries", 20.0, 0.05, 32.0, 0.75, 0.5),
    Category("restaurant", 14.0, 0.10, 24.0, 0.60, 0.3),
    Category("fast_food", 9.0, 0.15, 11.0, 0.45, 0.2),
    Category("fuel", 8.0, 0.00, 48.0, 0.40, 0.8),
    Category("clothing", 8.0, 0.45, 52.0, 0.70, 1.2),
    Category("pharmacy", 5.0, 0.15, 18.0, 0.70, 0.2),
    Category("electronics", 4.0, 0.60, 110.0, 0.95, 4.0),
    Category("marketplace", 6.0, 1.00, 38.0, 0.95, 2.0),
    Category("subscriptions", 4.0, 1.00, 12.0, 0.45, 0.4),
    Category("public_transport", 4.0, 0.30, 7.0, 0.80, 0.1),
    Category("taxi", 3.0, 0.60, 17.0, 0.50, 0.4),
    Category("household", 3.0, 0.30, 60.0, 0.85, 0.8),
    Category("gaming", 2.5, 1.00, 21.0, 0.80, 2.5),
    Category("gift_cards", 1.5, 0.80, 50.0, 0.60, 5.0),
    Category("travel", 2.0, 0.85, 190.0, 0.90, 2.5),
    Category("hotel", 1.5, 0.55, 150.0, 0.75, 1.0),
    Category("cash_withdrawal", 3.5, 0.00, 80.0, 0.60, 1.5),
    Category("jewellery", 0.6, 0.30, 170.0, 0.95, 3.5),
    Category("health", 1.5, 0.10, 55.0, 0.80, 0.1),
    Category("education", 0.5, 0.50, 90.0, 0.90, 0.1),
    Category("charity", 0.4, 0.70, 25.0, 0.80, 0.3),
    Category("money_transfer", 0.8, 0.90, 120.0, 0.90, 4.0),
    Category("antiques", 0.03, 0.40, 140.0, 1.10, 0.5),
    Category("marina", 0.02, 0.00, 85.0, 0.80, 0.1),
)
CATEGORY_NAMES = tuple(category.name for category in CATEGORIES)

_SOME = ("DE", "FR", "GB", "IT", "ES", "NL", "PL", "BE", "AT", "CH", "SE", "PT")
_MORE = ("IE", "DK", "CZ", "RO", "GR", "HU", "FI", "NO", "US", "TR", "LU", "MT")
COUNTRIES = (*_SOME, *_MORE)
CHANNELS = ("store", "online", "app")
STORE, ONLINE, APP = 0, 1, 2

_NEW_SYSTEMS = ("android-14", "ios-17", "windows-11", "android-13", "ios-16", "windows-10", "macos-14")
_OLD_SYSTEMS = ("android-12", "ios-15", "macos-13", "android-11", "ios-18", "linux")
_PROGRAMS = ("browser-a", "bank-app", "browser-b")
COMMON_DEVICES = tuple(f"{system}/{program}" for program in _PROGRAMS for system in (*_NEW_SYSTEMS, *_OLD_SYSTEMS))
NEW_DEVICE = "android-15/bank-app"  # released late in the period: a value that a training range may not contain
RARE_DEVICES = tuple(f"other-{number:03d}" for number in range(300))  # each of them rare
DEVICES = (*COMMON_DEVICES, NEW_DEVICE, *RARE_DEVICES)

DRIFT = (
    "gift_cards",
    "gaming",
    "marketplace",
    "electronics",
    "travel",
)  # what a fraud ring buys, from the first day to the last
PRICE_LIMITS = np.array(
    [100.0, 250.0, 500.0]
)  # limits above which a payment would be checked; also ordinary price points

# Relative number of payments in each hour of the day, for shops and for the web.
STORE_HOURS = np.array(
    [1, 0.6, 0.4, 0.3, 0.5, 1.5, 4, 8, 12, 14, 16, 20, 24, 20, 16, 16, 20, 26, 26, 20, 12, 7, 4, 2.0]
)
ONLINE_HOURS = np.array([7, 4, 2.5, 2, 2, 2.5, 4, 7, 10, 12, 13, 13, 15, 14, 13, 13, 14, 15, 17, 20, 24, 25, 20, 13.0])
WEEKDAYS = np.array([0.92, 0.94, 0.97, 1.02, 1.20, 1.15, 0.80])  # Monday first


def zipf(n: int, power: float) -> np.ndarray:
    """Shares (n,) that decrease with a power of the rank and sum to one."""
    shares = np.arange(1, n + 1, dtype=np.float64) ** -power
    return np.asarray(shares / shares.sum())
