"""A classifier on data frames: `tsa.fit`, and `tsa.FraudClassifier` by the conventions of scikit-learn."""

from tsa.estimator.classifier import FraudClassifier, fit

__all__ = ["FraudClassifier", "fit"]
