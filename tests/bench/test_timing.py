"""The order of the calls, the arithmetic of ratios, and what a report says of the machine. No speed is asserted."""

import statistics

import pytest
import torch

from longreach.bench.timing import Times, measure
from longreach.models.machine import record

CPU = torch.device("cpu")


def test_calls_alternate_and_the_warm_up_does_not_count():
    order, results = [], []
    calls = {name: lambda name=name: order.append(name) or name.upper() for name in "abc"}
    times = measure(calls, 3, CPU, warmup=2, inspect=lambda name, result: results.append((name, result)))
    assert "".join(order) == "abc" * 5
    assert results == [(name, name.upper()) for name in "abc"] * 5
    assert all(len(times[name].seconds) == len(times[name].processor_seconds) == 3 for name in "abc")
    assert all(times[name].peak_bytes is None for name in "abc")


def test_a_call_is_made_in_loops():
    order = []
    measure({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 1, CPU, warmup=1, loops=3)
    assert "".join(order) == "aaabbb" * 2


def test_ratios_are_paired_by_round():
    ours, bare = Times([1.0, 4.0, 2.0], [1.0, 1.0, 1.0]), Times([2.0, 4.0, 10.0], [3.0, 2.0, 1.0])
    assert ours.speedup(bare) == statistics.median([2.0, 1.0, 5.0]) and ours.processor_speedup(bare) == 2.0
    assert (ours.median, ours.best) == (2.0, 1.0)


def test_what_is_left_of_a_round_or_nothing_where_noise_is_larger():
    both, part = Times([3.0, 5.0], [2.0, 2.0], 7), Times([1.0, 2.0], [1.0, 1.0], 3)
    rest = both.less(part)
    assert rest.seconds == [2.0, 3.0] and rest.processor_seconds == [1.0, 1.0] and rest.peak_bytes == 7
    assert part.less(both) is None and both.less(Times([1.0, 5.5], [1.0, 1.0])) is None


def test_the_machine_is_recorded():
    found = record(["bench", "attention"], CPU, ["lancedb", "no-such-package"])
    assert found["command"] == "longreach bench attention"
    places = ["bench", "attention", "--out", "/home/me/a.json", "--rows", "2", "--plot=b.png", "--plot", "c.png"]
    assert record(places, CPU)["command"] == "longreach bench attention --rows 2"
    assert set(found["hardware"]) == {"device", "processor", "cores", "threads"} and found["hardware"]["processor"]
    assert found["hardware"]["threads"] == torch.get_num_threads()
    versions = found["versions"]
    assert (
        torch.__version__.startswith(versions["torch"]) and versions["lancedb"] and versions["no-such-package"] is None
    )
    assert set(versions) >= {"longreach", "torch", "triton", "transformers"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_memory_is_the_calls_own():
    device = torch.device("cuda")
    times = measure({"big": lambda: torch.zeros(2**26, device=device) + 1, "small": lambda: None}, 2, device)
    assert times["big"].peak_bytes - times["small"].peak_bytes >= 2**28
