"""Train again and again, as on past dates, and test each model on what came next."""

from tsa.backtest.fold import BacktestSettings
from tsa.backtest.plan import BacktestSchedule
from tsa.backtest.run import backtest

__all__ = ["BacktestSchedule", "BacktestSettings", "backtest"]
