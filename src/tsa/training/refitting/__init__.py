"""Train a finished run again on all payments whose outcomes are known."""

from tsa.training.refitting.cross_fitting import ranges_until, refit
from tsa.training.refitting.recipe import LEARNED, Recipe

__all__ = ["LEARNED", "Recipe", "ranges_until", "refit"]
