"""Without a GPU, Triton's kernels run under its interpreter, which is chosen before triton is first imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
