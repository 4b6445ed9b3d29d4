"""What the README claims: no placeholder left, every file it names is there, and its figures stand in the JSON."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_linked_file_exists():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 5
    for link in links:
        assert (ROOT / link).exists(), link


def test_no_placeholder_is_left():
    assert not re.findall(r"\b(?:DEMO|BENCH)_\w+|\bTODO\b", README)


def test_the_measured_table_is_the_json():
    name = re.search(r"benchmarks/results/(reader_\S+?\.json)", README)[1]
    report = json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))
    rows = [line for line in README.splitlines() if line.startswith(("| compressing", "| ask"))]
    said = [float(re.search(r"\| ([\d.]+)(?: of|x)", row)[1]) for row in rows]
    ratios = [value["ratio"] for value in report["compression"].values()]
    first = report["first_token"]
    asks = [
        first[f"{what}, {state}"]["ask_over_bare"] for state in ("cold", "hot") for what in ("passages", "document")
    ]
    assert said == [round(value, 2) for value in ratios + asks]


def test_both_commands_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
