"""A classifier on data frames: `tsa.fit`, and `tsa.FraudClassifier` by the conventions of scikit-learn."""

from tsa.estimator.classifier import FraudClassifier
from tsa.estimator.fit_model import fit

__all__ = ["FraudClassifier", "fit"]
