"""Memory, work and limits of a model on given hardware: arithmetic only."""
