"""Block-sparse attention on tensors: the public calls are in `attention`, one implementation a file
beside it."""
