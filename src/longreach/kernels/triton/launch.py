"""Starting Triton kernels: is it possible here, with which block sizes."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import triton
from torch import Tensor

from longreach.kernels.view import HeadView
from longreach.pattern.visibility import step_of_heads

# Under TRITON_INTERPRET=1, `triton.jit` gives functions that run on NumPy. Read once: triton does
# the same. Releases without `knobs` are not interpreted here.
INTERPRETED = hasattr(triton, "knobs") and triton.knobs.runtime.interpret

_best: dict[tuple[Any, ...], dict[str, int]] = {}


class Kernel(Protocol):
    """What `triton.jit` makes, interpreted or not: by its grid, what starts it."""

    def __getitem__(self, grid: tuple[int, ...], /) -> Callable[..., object]: ...


def pattern_args(view: HeadView, scale: float) -> dict[str, float]:
    """Returns the pattern as kernel arguments.

    `shift` and `scale` may change without a new compilation.
    """
    p = view.pattern
    return {
        "shift": view.offset(0),
        "scale": scale,
        "STEP": step_of_heads(p, view.total_heads),
        "SIZE": p.block_size,
        "SINK": p.sink_blocks,
        "LOCAL": p.local_blocks,
        "STRIDE": p.stride,
    }


def strides_of(*tensors: Tensor, dims: int = 3) -> list[int]:
    """Returns the strides of the first `dims` dimensions of each tensor, one after the other."""
    strides: list[int] = []
    for tensor in tensors:
        strides += tensor.stride()[:dims]
    return strides


def launch(
    kernel: Kernel,
    configs: Sequence[dict[str, int]],
    grid: Callable[[dict[str, int]], tuple[int, ...]],
    tensors: Sequence[Tensor | None],
    numbers: Sequence[int],
    named: dict[str, float],
) -> None:
    """Runs a kernel with the fastest of its configurations.

    The first call for a device, dtype, head dim, pattern and power-of-two length times every
    configuration (kernels overwrite their outputs, so running one twice is harmless) and remembers
    the best. Nothing is timed while a CUDA graph is recorded or under the interpreter: the first
    configuration that compiles is taken, or small blocks.
    """
    q = tensors[0]
    assert q is not None
    if INTERPRETED:
        # Its time goes by steps, not by work: blocks are small only where these meet more of a
        # pattern's edges.
        block = 32 if q.shape[-2] <= 160 else 128
        blocks = {name: block for name in configs[0] if name.startswith("BLOCK_")}
        kernel[grid(blocks)](*tensors, *numbers, **named, **blocks)
        return
    # Lengths by powers of two: the best blocks change slowly, and every new key costs a search.
    sizes = tuple(int(n).bit_length() for n in q.shape)
    key = (kernel, q.device, q.dtype, sizes, *(v for k, v in named.items() if k.isupper()))
    with torch.cuda.device(q.device):
        if key not in _best:
            found = _fastest(kernel, configs, grid, tensors, numbers, named)
            # The first configuration that compiled was run and recorded; it is not the best one.
            if torch.cuda.is_current_stream_capturing():
                return
            _best[key] = found
        kernel[grid(_best[key])](*tensors, *numbers, **named, **_best[key])


def _fastest(
    kernel: Kernel,
    configs: Sequence[dict[str, int]],
    grid: Callable[[dict[str, int]], tuple[int, ...]],
    tensors: Sequence[Tensor | None],
    numbers: Sequence[int],
    named: dict[str, float],
) -> dict[str, int]:
    """Returns the fastest configuration.

    Those that need more shared memory than there is do not count.
    """
    times: list[tuple[float, dict[str, int]]] = []
    problem: Exception | None = None
    for config in configs:

        def run(config: dict[str, int] = config) -> None:
            kernel[grid(config)](*tensors, *numbers, **named, **config)

        try:
            run()
            if torch.cuda.is_current_stream_capturing():
                return config
            times.append((triton.testing.do_bench(run, warmup=5, rep=20), config))
        except triton.runtime.errors.OutOfResources as error:
            problem = error
    if not times:
        assert problem is not None
        raise problem
    return min(times, key=lambda pair: pair[0])[1]
