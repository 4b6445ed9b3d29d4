"""Floor 3: loading models and running them. The only rooms that touch transformers' modelling
internals."""
