"""Steps of fixed shapes, recorded once as a CUDA graph and replayed."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Output = TypeVar("Output")

Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Runs a step once, in the way in which it will be repeated.

It gives what repeats the step, and the logits that this writes.
"""


def record_cuda_graph(
    run: Callable[[], Output], device: torch.device
) -> tuple[Callable[[], None], Output]:
    """Records a step as a CUDA graph; returns what repeats it, and the output that it writes.

    Recording runs nothing: replay it for the first result as well.
    """
    # Else the stream of another one is recorded, and nothing is on it.
    with torch.cuda.device(device):
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(device)
        # Other threads may take memory meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            output = run()
    return graph.replay, output
