"""A simulator of payment logs with known kinds of fraud: for demonstrations, speed measurements and tests.

Use `simulate`, or `tsa simulate` on the command line. Good metrics on simulated data show that the software works, not
that a model is good; docs/how-to/simulator.md describes what is simulated.
"""

from __future__ import annotations

from tsa.simulation.config import SimulationConfig
from tsa.simulation.fraud import FRAUD_KINDS
from tsa.simulation.log import simulate, write_simulation
from tsa.simulation.wire import write_wire

__all__ = ["FRAUD_KINDS", "SimulationConfig", "simulate", "write_simulation", "write_wire"]
