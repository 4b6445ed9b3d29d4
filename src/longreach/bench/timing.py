"""Measures several ways of doing the same thing, in turn.

Calls alternate (A B C A B C ...), so that other load on the machine hits all alike; ratios are
taken round by round and then the median. One measurement has to be compared with others of its own
run, never with another day's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch

Progress = Callable[[str], None]

Result = TypeVar("Result")


@dataclass
class Times:
    """What the rounds of one call took.

    Attributes:
        seconds: On the clock, one number a round.
        processor_seconds: Of all threads of this process, one number a round.
        peak_bytes: Most GPU memory allocated in any round, what lay there before included; None on
            a CPU, where memory cannot be told apart by call.
    """

    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        """Returns the median seconds."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """Returns the fewest seconds of any round."""
        return min(self.seconds)

    def speedup(self, baseline: Times) -> float:
        """Returns how many times faster it is than `baseline`: the median of the rounds' ratios."""
        return statistics.median(b / a for a, b in zip(self.seconds, baseline.seconds, strict=True))

    def processor_speedup(self, baseline: Times) -> float:
        """Returns the same of processor time.

        On a CPU that others use too it says more than the clock.
        """
        pairs = zip(self.processor_seconds, baseline.processor_seconds, strict=True)
        # The processor's clock may not have moved during a short call.
        return statistics.median(b / max(a, 1e-9) for a, b in pairs)

    def less(self, part: Times) -> Times | None:
        """Returns what remains of each round without `part`; None where noise is larger."""
        seconds = _subtract(self.seconds, part.seconds)
        if min(seconds) <= 0:
            return None
        processor = _subtract(self.processor_seconds, part.processor_seconds)
        return Times(seconds, processor, self.peak_bytes)


def _subtract(rounds: list[float], others: list[float]) -> list[float]:
    return [mine - other for mine, other in zip(rounds, others, strict=True)]


def wait(device: torch.device) -> None:
    """Waits until the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    calls: Mapping[str, Callable[[], Result]],
    repeats: int,
    device: torch.device,
    *,
    warmup: int = 1,
    loops: int = 1,
    inspect: Callable[[str, Result], None] | None = None,
    progress: Progress | None = None,
) -> dict[str, Times]:
    """Times calls in turn.

    Args:
        calls: By name; the first round warms them up in this order.
        repeats: Rounds that count.
        device: Where they run; each call ends when it has finished there.
        warmup: Rounds before those that do not count.
        loops: Times that each call is made in a round; its time is the mean.
        inspect: Gets the name and the result of each call, outside of its time; results are not
            kept.
        progress: Is told of each round.
    """
    times = {name: Times() for name in calls}
    # Round by round, not call by call: other load on the machine hits all calls alike.
    for turn in range(warmup + repeats):
        if progress:
            what = "warming up" if turn < warmup else f"round {turn - warmup + 1} of {repeats}"
            progress(f"{what}: {', '.join(calls)}")
        for name, call in calls.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            # Kernels are only queued: what the last call left must not count for this one.
            wait(device)
            began = time.perf_counter()
            work = time.process_time()
            for _ in range(loops):
                result = call()
            wait(device)
            seconds = (time.perf_counter() - began) / loops
            processor = (time.process_time() - work) / loops
            if inspect:
                inspect(name, result)
            # A cache that is kept would count as memory of the next call.
            del result
            if turn < warmup:
                continue
            entry = times[name]
            entry.seconds.append(seconds)
            entry.processor_seconds.append(processor)
            if device.type == "cuda":
                peak = torch.cuda.max_memory_allocated(device)
                entry.peak_bytes = max(entry.peak_bytes or 0, peak)
    return times
