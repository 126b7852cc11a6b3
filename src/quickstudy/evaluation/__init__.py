"""Evaluating a learner on fixed tasks: metrics and intervals, dry runs, and leakage from training."""
