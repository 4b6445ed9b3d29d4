"""The chart: which bars it has, what is written, what is refused."""

import importlib.util

import pytest

from longreach.bench.plot import Bar, bars, check_plot, plot
from longreach.errors import MissingDependency, UsageError

ATTENTION = {
    "bench": "attention",
    "source": "smollm2",
    "rows": 1,
    "length_tokens": 1024,
    "dtype": "float32",
    "device": "cpu",
    "results": [
        {"part": "forward", "impl": "sdpa"},
        {"part": "forward", "impl": "cpu", "speedup": 3.0, "ideal_speedup": 4.0},
        {"part": "backward", "impl": "cpu", "speedup": None, "ideal_speedup": 4.0},
    ],
}
VARIANTS = {"full": {}, "hybrid": {"speedup": 1.5}}
MODEL = ATTENTION | {
    "bench": "model",
    "slice": {"layers": 2, "of": 8},
    "prefill": {"ideal_speedup_flops": 2.0, "variants": VARIANTS},
    "decode": [{"graphs": graphs, "ideal_speedup": 3.0, "variants": VARIANTS} for graphs in (True, False)],
}


def test_bars_are_the_rows_with_a_speed_up():
    assert bars(ATTENTION) == [Bar("cpu, forward", 3.0, 4.0)]
    assert bars(MODEL) == [
        Bar("prefill, hybrid", 1.5, 2.0),
        Bar("decode, hybrid, graphs", 1.5, 3.0),
        Bar("decode, hybrid", 1.5, 3.0),
    ]


@pytest.mark.parametrize("report", [ATTENTION, MODEL])
@pytest.mark.parametrize(("name", "magic"), [("chart.png", b"\x89PNG"), ("chart.SVG", b"<?xml")])
def test_both_formats_are_written(report, tmp_path, name, magic):
    plot(report, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_axes_are_labeled_and_every_figure_stands_in_the_chart(tmp_path):
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        plot(MODEL, tmp_path / "chart.svg")
    text = (tmp_path / "chart.svg").read_text()
    for words in (
        "speed-up over full attention",
        "what was measured",
        "1.50x (75% of ideal)",
        "3.00x",
        "2 of 8 layers",
    ):
        assert words in text


def test_nothing_to_plot_and_other_formats_are_refused(tmp_path):
    with pytest.raises(UsageError, match="nothing to plot"):
        plot(ATTENTION | {"results": []}, tmp_path / "chart.png")
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        check_plot(tmp_path / "chart.pdf")


def test_without_matplotlib_the_command_that_brings_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install"):
        check_plot(tmp_path / "chart.png")
