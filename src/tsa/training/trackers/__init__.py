"""Trackers of experiments that a training run reports to."""
