"""Block-sparse attention on tensors: the public calls are in `api`, one implementation a module."""
