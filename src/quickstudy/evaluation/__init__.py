"""Judging a learner on fixed tasks: metrics and intervals, a first trial, and what leaked from training."""
