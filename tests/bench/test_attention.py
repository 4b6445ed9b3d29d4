"""The arithmetic of `bench attention` against the mask, counted by brute force; nothing here asserts a speed."""

import pytest
import torch

from longreach.bench.attention import DEFINITIONS, run
from longreach.bench.attention_case import AttentionCase
from longreach.errors import UsageError
from longreach.kernels import flex, reference
from longreach.pattern import AttentionPattern
from longreach.planning.plan import Shape

SHAPE = Shape(2, 32, 6, 2, 8, 64, 50)
PATTERN = AttentionPattern(4, 1, 2, 3)
LENGTH, ROWS, LAYER = 45, 2, 1


def case(**changes):
    settings = {"layer": LAYER, "rows": ROWS, "repeats": 2, "impls": ["cpu"]} | changes
    return AttentionCase(settings.pop("shape", SHAPE), settings.pop("pattern", PATTERN), LENGTH, **settings)


def by_part(report, impl):
    return {row["part"]: row for row in report["results"] if row["impl"] == impl}


@pytest.mark.parametrize("what", ["forward", "train", "decode"])
def test_flops_density_and_ideal_are_those_of_the_mask(what):
    report = run(case(what=what))
    queries = 1 if what == "decode" else LENGTH
    seen = int(PATTERN.mask(queries, LENGTH, 2, LAYER).sum()) * 3 * ROWS  # three query heads for each KV head
    causal = (LENGTH if what == "decode" else LENGTH * (LENGTH + 1) // 2) * 6 * ROWS
    assert report["density"] == pytest.approx(seen / causal) and seen < causal
    assert report["ideal_speedup"] == pytest.approx(causal / seen)
    times = {"forward": 1, "backward": 2.5, "forward+backward": 3.5, "decode": 1}
    for impl, pairs in (("sdpa", causal), ("cpu", seen)):
        rows = by_part(report, impl)
        assert set(rows) == ({*times} - {"decode"} if what == "train" else {what})
        for part, row in rows.items():
            assert row["flops"] == 4 * 8 * pairs * times[part]


@pytest.mark.parametrize("what", ["forward", "train", "decode"])
def test_every_figure_follows_from_the_rounds(what):
    report = run(case(what=what))
    rounds = report["rounds_seconds"]
    for row in report["results"]:
        if row["part"] == "backward":
            continue
        mine, base = rounds[f"{row['impl']} {row['part']}"], rounds[f"sdpa {row['part']}"]
        assert len(mine) == 2 and row["seconds"] == pytest.approx(sum(mine) / 2) and row["best_seconds"] == min(mine)
        assert row["tokens_per_second"] * row["seconds"] == pytest.approx(ROWS * (1 if what == "decode" else LENGTH))
        assert row["flops_per_second"] * row["seconds"] == pytest.approx(row["flops"])
        assert row["bytes_per_second"] * row["seconds"] == pytest.approx(row["bytes"])
        assert row["peak_memory_bytes"] is None
        if row["impl"] == "cpu":
            assert row["speedup"] == pytest.approx(sum(b / a for a, b in zip(mine, base, strict=True)) / 2)
            assert row["achieved_over_ideal"] == pytest.approx(row["speedup"] / report["ideal_speedup"])
            assert row["flops_per_second_over_baseline"] == pytest.approx(row["achieved_over_ideal"])
            assert row["speedup_over_flex"] is None
    assert {"flops", "bytes", "speedup", "achieved_over_ideal"} <= set(DEFINITIONS)


def test_bytes_are_those_of_the_tensors():
    q, k = 6 * LENGTH * 8 * 4 * ROWS, 2 * LENGTH * 8 * 4 * ROWS
    rows = by_part(run(case(what="train")), "cpu")
    assert rows["forward"]["bytes"] == 2 * q + 2 * k
    assert rows["backward"]["bytes"] == 4 * q + 4 * k
    assert rows["forward+backward"]["bytes"] == 6 * q + 6 * k
    decode = run(case(what="decode", dtype=torch.bfloat16))
    seen = int(PATTERN.mask(1, LENGTH, 2, LAYER).sum())
    assert by_part(decode, "cpu")["decode"]["bytes"] == ROWS * 8 * 2 * (2 * 6 + 2 * seen)
    assert by_part(decode, "sdpa")["decode"]["bytes"] == ROWS * 8 * 2 * (2 * 6 + 2 * 2 * LENGTH)


def test_speed_up_over_flex_where_both_ran(monkeypatch):
    monkeypatch.setattr(flex, "attend", reference.attend)  # compiling it takes long, and is tested elsewhere
    report = run(case(impls=["cpu", "flex"]))
    rounds, (cpu,) = report["rounds_seconds"], by_part(report, "cpu").values()
    pairs = zip(rounds["cpu forward"], rounds["flex forward"], strict=True)
    assert cpu["speedup_over_flex"] == pytest.approx(sum(b / a for a, b in pairs) / 2)
    assert by_part(report, "flex")["forward"]["speedup_over_flex"] is None


def test_what_cannot_run_is_a_note():
    trained = run(case(what="train", impls=["flex", "cpu"]))
    assert {row["impl"] for row in trained["results"]} == {"sdpa", "cpu"}
    assert trained["notes"] == ["flex omitted: it has no backward pass on a CPU"]
    decoded = run(case(what="decode", impls=["flex"]))
    assert {row["impl"] for row in decoded["results"]} == {"sdpa"} and "compact cache" in decoded["notes"][0]


def test_flex_that_fails_is_a_note(monkeypatch):
    def broken(*args):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(flex, "attend", broken)
    report = run(case(impls=["cpu", "flex"]))
    assert {row["impl"] for row in report["results"]} == {"sdpa", "cpu"}
    assert report["notes"] == ["flex did not run here (RuntimeError: no compiler here)"]


@pytest.mark.parametrize("pattern", [AttentionPattern(4, 0, 1), AttentionPattern(8, 2, 3), AttentionPattern(16, 1, 40)])
def test_decode_takes_any_pattern_and_length(pattern):
    for length in (1, 7, 8, 33):
        report = run(AttentionCase(SHAPE, pattern, length, "decode", ["cpu"], repeats=1))
        assert report["density"] == int(pattern.mask(1, length, 2).sum()) / (2 * length)


@pytest.mark.parametrize(
    "changes",
    [{"what": "backwards"}, {"impls": ["fast"]}, {"impls": ["auto"]}, {"rows": 0}, {"repeats": 0}, {"layer": -1}],
)
def test_wrong_cases_are_refused(changes):
    with pytest.raises(UsageError):
        case(**changes)
