"""Train again and again, as on past dates, and test each model on what came next."""

from tsa.backtest.plan import BacktestSchedule
from tsa.backtest.run import backtest
from tsa.backtest.settings import BacktestSettings

__all__ = ["BacktestSchedule", "BacktestSettings", "backtest"]
