"""A simulator of payment logs with known kinds of fraud: for demonstrations, speed measurements and tests.

It knows nothing of stores or models, and of markets only what names wire rows have; it only writes a table. A good
result on it says that the machinery works, not that a model is good: docs/simulator.md says what is made and what is not.
The rooms: `config` what is asked for, `tables` names and habits, `population` who pays where, `genuine` everyday payments,
`campaigns` and `fraud` the kinds of fraud and what resembles them, `payments` flat arrays, `log` order, labels and columns,
`write` file formats, `wire` rows that carry their own history.
"""

from __future__ import annotations

from tsa.simulation.config import SimulationConfig
from tsa.simulation.fraud import FRAUD_KINDS
from tsa.simulation.log import simulate, write_simulation
from tsa.simulation.wire import write_wire

__all__ = ["FRAUD_KINDS", "SimulationConfig", "simulate", "write_simulation", "write_wire"]
