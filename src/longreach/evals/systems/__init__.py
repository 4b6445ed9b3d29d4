"""The ways of answering that an evaluation compares."""
