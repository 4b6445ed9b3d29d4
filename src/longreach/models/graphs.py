"""Steps of fixed shapes, recorded once as a CUDA graph and replayed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], Any], Tensor]]
"""Runs a step once, in the way in which it will be repeated.

It gives what repeats the step, and the logits that this writes.
"""


def record_cuda_graph(
    run: Callable[[], Tensor], device: torch.device
) -> tuple[Callable[[], Any], Tensor]:
    """Records a step as a CUDA graph.

    Recording runs nothing: replay it for the first result as well.
    """
    # Else the stream of another one is recorded, and nothing is on it.
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(device)
        # Other threads may take memory meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            logits = run()
    return graph.replay, logits
