"""Runs of evaluations: samples, predictions, scores and their folder."""
