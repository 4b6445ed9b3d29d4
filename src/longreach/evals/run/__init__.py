"""The run of an evaluation: samples, predictions, their folder."""
