"""Train again and again, as on past dates, and test each model on what came next."""

from tsa.backtest.backtest import backtest
from tsa.backtest.fold import BacktestSettings
from tsa.backtest.plan import BacktestSchedule

__all__ = ["BacktestSchedule", "BacktestSettings", "backtest"]
