"""A report: its figures are those of the runs, in JSON, page and twin; what may not share a table is refused."""

import html
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from longreach.errors import UsageError
from longreach.evals.report.axis import Axis
from longreach.evals.report.charts import Point, Series, line_chart
from longreach.evals.report.heat import heat_map
from longreach.evals.report.markdown import markdown
from longreach.evals.report.page import page
from longreach.evals.report.report import figures
from longreach.evals.report.runs import read_run
from tests.evals.run_folders import COSTS, docqa_run, identities, length_run, perplexity_run
from tests.evals.scripted import run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """The tables of a page by caption, each cell as the values of its `data` elements, or as its text."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags, self.open, self.links, self.charts = {}, [], [], [], []
        self._rows, self._cell = None, None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self.links += [value for name, value in attributes.items() if name in ("href", "src", "srcset", "action")]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._cell = {"text": "", "values": [], "class": attributes.get("class")}
            self._rows[-1].append(self._cell)
        if tag == "data":
            self._cell["values"].append(float(attributes["value"]))
        if tag == "svg" and attributes.get("role") == "img":
            self.charts.append(attributes["aria-label"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._rows
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, text):
        if "caption" in self.open:
            self._caption += text
        elif self._cell is not None:
            self._cell["text"] += text

    def table(self, caption):
        """Values by row and column, of the one table whose caption begins so."""
        (rows,) = (rows for name, rows in self.tables.items() if name.startswith(caption))
        names = [cell["text"] for cell in rows[0]]
        return {row[0]["text"]: dict(zip(names[1:], row[1:], strict=True)) for row in rows[1:]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    tasks = ("niah_single_1", "vt", "cwe")
    return {
        "niah": length_run(place / "niah"),
        "ruler": length_run(place / "ruler", "ruler", tasks=tasks),
        "docqa": docqa_run(place / "docqa"),
        "perplexity": perplexity_run(place / "perplexity"),
    }


@pytest.fixture(scope="module")
def told(folders):
    return figures([read_run(folder) for folder in folders.values()])


def rows_in(folder):
    return json.loads((folder / "scores.json").read_text())["rows"]


def report_of(*folders, labels=()):
    return figures([read_run(folder) for folder in folders], labels)


def suite(told, name):
    return next(found for found in told["suites"] if found["suite"] == name)


def test_rows_are_those_of_the_runs(folders, told):
    for name, folder in folders.items():
        assert suite(told, name)["rows"] == rows_in(folder)


def test_scores_of_the_page_are_those_of_the_runs(folders, told):
    shown = Page(page(told))
    for name, caption, key in (
        ("niah", "Score by length, uuid", "length"),
        ("ruler", "Score by length, mean of 3 tasks", "length"),
        ("ruler", "Score by task, 2K", "task"),
        ("docqa", "Score by task, whole documents", "task"),
    ):
        table = shown.table(caption)
        rows = [row for row in rows_in(folders[name]) if key == "length" or row["length"] in (0, 2048)]
        rows = [row for row in rows if key == "task" or row["task"] in ("uuid", "mean")]
        for row in rows:
            where = f"{row['length'] // 1024}K" if key == "length" else row["task"]
            cell = table[where][row["reader"]]
            assert cell["values"][:4] == [row["score"], row["low"], row["high"], row["positions"]]
            shown_here = [f"{other['score']:.1f}" for other in rows if other[key] == row[key]]
            best = max(shown_here, key=float)
            sole = shown_here.count(best) == 1 and float(best) > 0
            assert (cell["class"] == "best") == (sole and f"{row['score']:.1f}" == best)
        assert len(rows) == sum(len(cells) for cells in table.values())


def test_readers_of_a_suite_have_colors_of_their_own(told):
    text = page(told)
    legends = re.findall(r'<ul class="legend">(.*?)</ul>', text)
    marks = [re.findall(r'class="s(\d)"><path class="mark" d="(.*?)"', legend) for legend in legends]
    assert len(marks) == 5 and max(map(len, marks)) == 7
    assert all(len({color for color, _ in legend}) == len(legend) for legend in marks)


def test_what_answers_took_is_on_the_page(folders, told):
    shown = next(rows for name, rows in Page(page(told)).tables.items() if name == "What an answer took, uuid")
    rows = [row for row in rows_in(folders["niah"]) if row["length"] == 4096]
    for row in rows:
        values = [value for cell in shown[1:] if cell[0]["text"] == row["reader"] for value in cell[-1]["values"]]
        assert values[-1] == row["peak_bytes"]
    took = [cell["values"] for cell in shown[-1][1:]]
    keys = ("length", "samples", "positions", "read_tokens", "first_token_seconds", "seconds", "tokens_per_second")
    assert took == [[rows[-1][key]] for key in (*keys, "kv_bytes", "peak_bytes")]


def test_needles_by_depth(folders, told):
    lines = [json.loads(line) for line in (folders["niah"] / "predictions.jsonl").read_text().splitlines()]
    shown = Page(page(told))
    for reader in ("full", "sink-window"):
        table = shown.table(reader)
        assert list(table) == ["0%", "25%", "50%", "75%", "100%"]
        for depth in (0, 50):
            scores = [
                line["score"]
                for line in lines
                if (line["reader"], line["length"], line["tags"]["depth"]) == (reader, 2048, depth)
            ]
            assert table[f"{depth}%"]["2K"]["values"] == [100 * sum(scores) / len(scores)]


def test_perplexity_by_position(folders, told):
    text = page(told)
    table = Page(text).table("Perplexity by position")
    for row in rows_in(folders["perplexity"]):
        start, stop = row["bucket"]
        assert table[f"{start:,} to {stop:,}"][row["reader"]]["values"] == [row["perplexity"], row["tokens"]]
    assert any("Perplexity by positions up to. full: 21 at 1K" in chart for chart in Page(text).charts)


def test_charts_say_their_figures(told):
    charts = Page(page(told)).charts
    row = next(row for row in suite(told, "niah")["rows"] if (row["reader"], row["length"]) == ("hybrid", 4096))
    assert any(f"hybrid: {7.21} at 1K" in chart and "KV cache, MiB, by length" in chart for chart in charts)
    (memory, *_) = (chart for chart in charts if chart.startswith("KV cache"))
    assert f"{row['kv_bytes'] / 2**20:.3g} at 4K" in memory
    assert sum(chart.startswith("Score and its interval against positions read") for chart in charts) == 3


def test_preparing_documents_pays_after_so_many_questions(folders, told):
    rows = {row["reader"]: row for row in suite(told, "docqa")["break_even"]}
    assert set(rows) == {"mean-pool", "compressed", "mixed"}
    row = rows["compressed"]
    assert row["questions"] == 24 and row["full_seconds"] == pytest.approx(9.5 * 1.2)
    n = row["questions_to_pay"]
    once = COSTS["ingest_seconds"] + COSTS["study_seconds"]
    assert once + n * row["seconds"] <= n * row["full_seconds"]
    assert once + (n - 1) * row["seconds"] > (n - 1) * row["full_seconds"]
    cells = list(Page(page(told)).table("Seconds spent once")["compressed"].values())
    assert [cell["values"] for cell in cells] == [[240], [1500], [row["seconds"]], [row["full_seconds"]], [24], [n]]


def test_what_was_not_measured_is_said_and_never_guessed(tmp_path):
    told = report_of(docqa_run(tmp_path / "run", costs={"ingest_seconds": 240.0}))
    row = next(row for row in told["suites"][0]["break_even"] if row["reader"] == "compressed")
    assert row["questions_to_pay"] is None and not row["measured"] and row["study_seconds"] is None
    cells = list(Page(page(told)).table("Seconds spent once")["compressed"].values())
    assert cells[1]["text"] == cells[-1]["text"] == "not measured"


def test_without_an_adapter_nothing_was_studied(tmp_path):
    told = report_of(docqa_run(tmp_path / "run", costs={"ingest_seconds": 240.0, "adapter": None}))
    row = next(row for row in told["suites"][0]["break_even"] if row["reader"] == "mixed")
    assert row["study_seconds"] == 0
    assert row["questions_to_pay"] == math.ceil(240 / (row["full_seconds"] - row["seconds"]))


def test_reading_that_saves_nothing_never_pays(tmp_path):
    folder = docqa_run(tmp_path / "run")
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    slow = [line | {"seconds": 20.0} if line["reader"] == "compressed" else line for line in lines]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in slow))
    cells = list(Page(page(report_of(folder))).table("Seconds spent once")["compressed"].values())
    assert cells[-1]["text"].startswith("never")


def test_a_reader_that_answered_fewer_samples_says_so(tmp_path):
    folder = docqa_run(tmp_path / "run")
    scores = json.loads((folder / "scores.json").read_text())
    most = scores["rows"][0]["samples"]
    fewer = [row | ({"samples": 1} if row["reader"] == "full" else {}) for row in scores["rows"]]
    (folder / "scores.json").write_text(json.dumps(scores | {"rows": fewer}))
    rows = {row.split(" | ")[0]: row for row in markdown(report_of(folder)).splitlines()}
    assert f"; 1 of {most})" in rows["| full"] and not any(" of " in rows[f"| {name}"] for name in ("bm25", "mixed"))


def test_an_unfinished_run_is_reported_as_far_as_it_came(tmp_path):
    folder = length_run(tmp_path / "run", finished=False)
    lines = (folder / "predictions.jsonl").read_text().splitlines(keepends=True)
    (folder / "predictions.jsonl").write_text("".join(lines[:40]) + lines[40][:30])  # being written, or killed at it
    told = report_of(folder)
    assert told["runs"][0]["state"] == "unfinished, 40 of 90"
    assert [row["samples"] for row in told["suites"][0]["rows"]] == [10, 10, 10, 10]
    assert told["suites"][0]["unfinished"] == ["full", "hybrid", "sink-window"]
    assert "unfinished, 40 of 90" in page(told) and "unfinished, 40 of 90" in markdown(told)
    found = Page(page(told)).table("Score by length")
    assert found["2K"]["hybrid"]["text"] == "not measured" and found["1K"]["hybrid"]["values"]
    (folder / "predictions.jsonl").write_text("")
    assert "No answers yet" in page(report_of(folder))


def test_a_perplexity_beyond_all_numbers(tmp_path):
    folder = perplexity_run(tmp_path / "run")
    rows = rows_in(folder)
    rows[0]["perplexity"] = math.inf
    (folder / "scores.json").write_text(json.dumps({"rows": rows}))
    assert "not measured" in page(report_of(folder)) and "not measured" in markdown(report_of(folder))


def test_an_unfinished_run_of_perplexity(tmp_path):
    done, not_yet = perplexity_run(tmp_path / "done"), perplexity_run(tmp_path / "not-yet", finished=False)
    told = report_of(not_yet)
    assert told["runs"][0]["state"] == "unfinished, 6 of 6"
    found = {(row["reader"], *row["bucket"]): row["perplexity"] for row in told["suites"][0]["rows"]}
    assert found == pytest.approx({(row["reader"], *row["bucket"]): row["perplexity"] for row in rows_in(done)})


def test_a_run_of_the_runner_is_a_report(tmp_path):
    rows = run(tmp_path / "run")["rows"]
    told = report_of(tmp_path / "run")
    assert told["suites"][0]["rows"] == rows and told["runs"][0]["state"] == "finished"
    table = Page(page(told)).table("Score by length, mean of 2 tasks")
    assert table["64"]["oracle"]["values"][0] == 100 and table["64"]["oracle"]["class"] == "best"


def test_runs_of_other_lengths_share_a_table(tmp_path):
    short = length_run(tmp_path / "short", lengths=(1024,), samples_digest="a")
    long = length_run(tmp_path / "long", lengths=(4096,), samples_digest="b")
    (only,) = report_of(short, long)["suites"]
    assert only["readers"] == ["full", "hybrid", "sink-window"]
    assert [row["length"] for row in only["rows"]] == [1024] * 3 + [4096] * 3


def test_a_mean_over_other_tasks_is_no_mean(tmp_path):
    one = length_run(tmp_path / "one", "ruler", tasks=("vt", "cwe"), readers=("full",))
    other = length_run(tmp_path / "other", "ruler", tasks=("vt", "fwe"), readers=("hybrid",))
    told = report_of(one, other)
    assert not any(row["task"] == "mean" for row in told["suites"][0]["rows"])
    assert "There is no mean over the tasks" in page(told)
    markdown(told)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"identities": identities(["full", "hybrid", "sink-window"], model="bbbb")}, "model_fingerprint"),
        ({"samples_digest": "other", "readers": ("hybrid",)}, "different samples"),
        ({}, "same samples"),
    ],
)
def test_what_cannot_be_compared_is_refused_or_labeled(tmp_path, changes, words):
    kept = {} if "readers" not in changes else {"readers": ("full",)}
    one, other = length_run(tmp_path / "one", **kept), length_run(tmp_path / "other", **changes)
    with pytest.raises(UsageError, match=words) as refused:
        report_of(one, other)
    assert "--label" in str(refused.value)
    told = report_of(one, other, labels=("before", "after"))
    assert {name.split(" (")[1] for name in told["suites"][0]["readers"]} == {"before)", "after)"}
    assert ("different samples" in page(told)) == (words == "different samples")
    heads = set(Page(page(told)).table("Score by length")["1K"])
    assert heads == set(told["suites"][0]["readers"])


def test_seconds_of_preparing_make_no_other_reader(tmp_path):
    one = docqa_run(tmp_path / "one")
    other = docqa_run(tmp_path / "other", costs={"ingest_seconds": 1.0})
    with pytest.raises(UsageError, match="same samples"):  # and not: is not the same
        report_of(one, other)


def test_wrong_calls():
    with pytest.raises(UsageError, match="nothing to report"):
        figures([])


def test_labels_are_as_many_as_runs(folders):
    with pytest.raises(UsageError, match="1 label for 2 runs"):
        report_of(folders["niah"], folders["ruler"], labels=("one",))


def _line(folder, number, text):
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    lines[number - 1] = text
    (folder / "predictions.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda folder: (folder / "run.json").unlink(), "not the folder of a run"),
        (lambda folder: (folder / "run.json").write_text("{"), "run.json' is damaged"),
        (lambda folder: (folder / "run.json").write_text("{}"), "not a run of this version"),
        (lambda folder: (folder / "run.json").write_text('{"longreach_run": 1}'), "lacks 'suite'"),
        (lambda folder: (folder / "run.json").write_bytes(b"\xff"), "not UTF-8"),
        (lambda folder: _line(folder, 3, "{"), "Line 3 of .* is not JSON"),
        (lambda folder: _line(folder, 4, "[]"), "Line 4 of .* lacks 'reader'"),
        (lambda folder: _line(folder, 5, '{"reader": "full"}'), "Line 5 of .* lacks 'task'"),
        (lambda folder: (folder / "scores.json").write_text("[]"), "holds no scores"),
        (lambda folder: (folder / "scores.json").write_text('{"rows": [{}]}'), "lacks 'reader'"),
    ],
)
def test_damage_is_one_sentence(tmp_path, damage, words):
    folder = length_run(tmp_path / "run")
    damage(folder)
    with pytest.raises(UsageError, match=words):
        read_run(folder)


def test_an_unfinished_run_without_what_is_to_be_added_up(tmp_path):
    folder = length_run(tmp_path / "run", finished=False)
    line = json.loads((folder / "predictions.jsonl").read_text().splitlines()[1])
    del line["seconds"]
    _line(folder, 2, json.dumps(line))
    with pytest.raises(UsageError, match=r"Line 2 of .* lacks 'seconds'"):
        read_run(folder)


def test_names_are_text_and_no_html(tmp_path):
    names = {"full": "<script>alert(1)</script>", "command": 'a "quoted" & <b>'}
    folder = length_run(tmp_path / "run", command=names["command"])
    for file in folder.iterdir():
        file.write_text(file.read_text().replace('"full"', json.dumps(names["full"])))
    text = page(report_of(folder))
    assert "<script" not in text and html.escape(names["command"]) in text and html.escape(names["full"]) in text


def test_the_page_needs_nothing_else(told):
    text = page(told)
    shown = Page(text)
    assert not any(tag in ("script", "img", "iframe") for tag, _ in shown.tags)
    assert all(link.startswith("#") or link == "data:," for link in shown.links)
    assert not re.search(r"url\(|@import|https?://", text)
    ids = [attributes["id"] for _, attributes in shown.tags if "id" in attributes]
    assert {link[1:] for link in shown.links if link.startswith("#")} == set(ids) and len(ids) == len(set(ids))


def test_the_page_says_what_was_run(folders, told):
    text = page(told)
    for folder in folders.values():
        record = json.loads((folder / "run.json").read_text())
        for key in ("command", "samples_digest", "started"):
            assert html.escape(record[key]) in text
    assert "model_fingerprint aaaa" in text and "torch 2.13.0" in text and "processor AMD EPYC" in text


def test_the_twin_has_the_same_figures(folders, told):
    text = markdown(told)
    for row in rows_in(folders["docqa"]):
        assert f"{row['score']:.1f} ({row['low']:.1f} to {row['high']:.1f})" in text
    lines = [line for line in text.splitlines() if line.startswith("| full")]
    assert len(lines) == 4 and "| 21 | 20 | 19 | 900 |" in lines[-1]
    assert "`longreach eval ruler smollm2" in text


def test_marks_of_a_chart_lie_where_their_figures_do():
    series = [Series("one", 0, [Point(1024, 0.0), Point(2048, 50.0), Point(4096, 100.0, 90.0, 110.0)])]
    ticks = (1024, 2048, 4096)
    text = line_chart("Title", series, Axis("tokens", str, log=True, ticks=ticks), Axis("Score", lambda v: f"{v:g}"))
    marks = [tuple(map(float, at)) for at in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", text)]
    (x0, y0), (x1, y1), (x2, y2) = marks
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and y0 - y1 == pytest.approx(y1 - y2, abs=0.2) and y0 > y1


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e-9, 2e-9], [0.0, 1e12]])
@pytest.mark.parametrize("log", [False, True])
def test_any_figures_make_a_chart(values, log):
    values = [value or 1e-12 for value in values] if log else values
    series = [Series("one", 11, [Point(number + 1, value) for number, value in enumerate(values)])]
    text = line_chart("Title", series, Axis("x", str, zero=False), Axis("y", str, log=log))
    assert "nan" not in text and text.count('class="mark"') == len(values)


def test_ink_on_a_heat_map_can_be_read():
    text = heat_map("one", "depth", {str(score): {"1K": score} for score in range(0, 101, 5)}, ["1K"])

    def light(color):
        full = color if len(color) == 6 else "".join(2 * digit for digit in color)
        levels = [level / 255 for level in bytes.fromhex(full)]
        red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in levels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    cells = re.findall(r"background:#(\w+);color:#(\w+)", text)
    assert len(cells) == 21
    for ground, ink in cells:
        low, high = sorted((light(ground), light(ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5
    grounds = [light(ground) for ground, _ in cells]
    assert grounds == sorted(grounds)  # more is brighter, also in grey


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
@pytest.mark.parametrize("width", [360, 1280])
def test_a_browser_shows_the_page(told, tmp_path, width):
    """Chromium's own windows are 500 pixels wide at least, so the page lies in a frame of the width that counts."""
    text = page(told).replace("<details>", "<details open>")
    wide = text.replace("<nav", '<nav style="width:4000px"')
    assert _overflow(tmp_path / "page.html", text, width) == "false"
    assert _overflow(tmp_path / "wide.html", wide, width) == "true"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_wide_tables_scroll_and_show_it_on_a_narrow_screen(told, tmp_path):
    """Each has a bar that takes room of its own and shadows at its ends; names of rows leave most to the figures."""
    text = page(told).replace("<details>", "<details open>")
    script = """JSON.stringify([...document.querySelectorAll(".scroll")].map(box => ({
      wide: box.scrollWidth > box.clientWidth,
      bar: box.offsetHeight - box.clientHeight,
      shadow: getComputedStyle(box).backgroundImage.includes("gradient"),
      names: Math.max(...[...box.querySelectorAll("th[scope=row]")].map(name => name.offsetWidth)) / box.clientWidth,
    })))"""
    boxes = json.loads(_browsed(tmp_path / "page.html", text, 390, script))
    wide = [box for box in boxes if box["wide"]]
    assert len(wide) >= 5, boxes
    assert all(box["bar"] >= 8 and box["shadow"] and box["names"] < 0.4 for box in wide), wide
    assert all(box["bar"] == 0 for box in boxes if not box["wide"])


def _overflow(path, text, width):
    """Whether a page is wider than its frame, as a browser says that complains of nothing."""
    script = "[document.body.children.length, document.documentElement.scrollWidth > innerWidth]"
    children, wide = _browsed(path, text, width, script).split(",")
    assert int(children) >= 2
    return wide


def _browsed(path, text, width, script):
    """What a script finds on a page that a browser shows in a frame of some width."""
    policy = "style-src 'unsafe-inline';"
    assert policy in text
    inside = text.replace(policy, f"{policy} script-src 'unsafe-inline';")
    inside = inside.replace("</body>", f"<script>parent.document.title = {script}</script></body>")
    frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{html.escape(inside)}"></iframe>'
    path.write_text(f"<!doctype html><title>nothing</title><body>{frame}")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--user-data-dir={path.parent / 'profile'}", f"--window-size={max(width, 500)},900", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    found = re.search(r"<title>(.*?)</title>", done.stdout)
    assert found and found[1] != "nothing", done.stdout[:300]
    return html.unescape(found[1])


def _with_scores(folder, **changes):
    """A run whose scores are those given by reader; further changes are to every row."""
    scores = json.loads((folder / "scores.json").read_text())
    values = changes.pop("values")
    rows = [row | {"score": values.get(row["reader"], 0.0)} | changes for row in scores["rows"]]
    (folder / "scores.json").write_text(json.dumps(scores | {"rows": rows}))
    return Page(page(report_of(folder))).table("Score by task")["qmsum"]


def test_a_tie_and_a_row_of_zeros_have_no_best(tmp_path):
    def best(name, **values):
        cells = _with_scores(docqa_run(tmp_path / name, tasks=("qmsum",)), values=values)
        return [reader for reader, cell in cells.items() if cell["class"] == "best"]

    assert best("one", full=40.0, mixed=39.0) == ["full"]
    assert best("tie", full=40.0, mixed=40.0) == []
    assert best("shown", full=40.01, mixed=39.99) == []  # both are 40.0 to whoever reads the page
    assert best("zeros") == [] and best("nearly", full=0.04) == []


def test_few_answers_have_no_interval_anywhere(tmp_path):
    folder = docqa_run(tmp_path / "run", tasks=("qmsum",))
    cell = _with_scores(folder, values={"full": 40.0}, samples=9, low=None, high=None)["full"]
    assert "n < 10" in cell["text"] and cell["values"] == [40.0, 3600.0]
    told = report_of(folder)
    assert "| full | 40.0 (n < 10) |" in markdown(told) and "9 samples each" in page(told)
    ends = "h6M"  # of the line that is an interval in a chart
    assert ends not in page(told) and ends in page(report_of(docqa_run(tmp_path / "many", tasks=("qmsum",))))
    one = _with_scores(docqa_run(tmp_path / "one", tasks=("qmsum",)), values={}, samples=1, low=1.0, high=2.0)["full"]
    assert "n < 10" in one["text"] and "1 sample each" in page(report_of(tmp_path / "one"))


def test_one_task_of_documents_is_a_table_by_task(tmp_path):
    folder = docqa_run(tmp_path / "run", costs={"ingest_seconds": 1.0, "study_seconds": 2.0}, tasks=("qmsum",))
    text = page(report_of(folder))
    assert list(Page(text).table("Score by task, whole documents")) == ["qmsum"]
    cells = list(Page(text).table("Seconds spent once")["compressed"].values())
    assert cells[-1]["text"] == "1 question" and "Score by length" not in text
    assert "| system | qmsum | positions |" in markdown(report_of(folder))


def test_runs_about_other_documents_keep_their_names_where_there_is_no_mean(tmp_path):
    tasks = ("fairytaleqa", "squality")
    runs = [docqa_run(tmp_path / task, tasks=(task,), samples_digest=task, settings={"data": [task]}) for task in tasks]
    told = report_of(*runs)
    shown = Page(page(told))
    pays = shown.table("Seconds spent once")
    assert list(pays) == [f"{reader}, {task}" for task in tasks for reader in ("mean-pool", "compressed", "mixed")]
    for task in tasks:
        row = next(r for r in told["suites"][0]["rows"] if (r["task"], r["reader"]) == (task, "bm25"))
        took = shown.table(f"What an answer took, {task}")["bm25"]
        assert took["positions read"]["values"] == [row["positions"]]
        assert took["whole answer"]["values"] == [row["seconds"]]
    head = markdown(told).splitlines()[2]
    assert head == "| system | fairytaleqa | squality | positions, squality | first token, squality | KV, squality |"


def test_what_no_mean_and_no_last_column_say_is_not_made_up(tmp_path):
    one = length_run(
        tmp_path / "one", "ruler", tasks=("a", "b", "c", "d", "e", "f"), lengths=(1024,), readers=("full",)
    )
    two = length_run(tmp_path / "two", "ruler", tasks=("vt",), lengths=(1024,), readers=("hybrid",))
    _, _, head, _, full, hybrid, *_ = markdown(report_of(one, two)).splitlines()
    assert head.startswith("| system | a | b |") and head.endswith("| vt | positions, vt | first token, vt | KV, vt |")
    assert full.endswith("| not measured | not measured | not measured | not measured |")
    assert hybrid.split("|")[2] == " not measured " and "984" in hybrid
