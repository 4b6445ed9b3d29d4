"""What others wrote, in names, passages and answers, cannot steer a terminal; in JSON it is exact."""

import json
import re
from pathlib import Path

import pytest

from longreach import cli
from longreach.cli import output
from longreach.wording import printable

ESC, CSI, OVERRIDE, ISOLATE = "\x1b[31m", "\x9b2J", "\u202egnp.exe", "\u2066x\u2069"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
EVIL = f"a{ESC}\n{CSI}{OVERRIDE}{ISOLATE}\r\u2028b"


def test_what_steers_a_terminal_is_written_out():
    assert printable("a\x1b[2J\x07\x9b\x7f\r\n\t") == r"a\x1b[2J\x07\x9b\x7f\r\n\t"
    assert printable("x\u202ey\u2069\u2028") == r"x\u202ey\u2069\u2028"
    assert printable("a\nb\tc\x1b", lines=True) == "a\nb\tc\\x1b"


@pytest.mark.parametrize(
    "text", ["Größe “1”", "吾輩は猫", "می\u200cخواهم", "שלום\u200f!", "👩\u200d👩", "a\u00adb", "\\x1b"]
)
def test_all_else_stays(text):
    assert printable(text) == text


def test_files_and_passages_with_controls(run, library, models, tmp_path):
    path = tmp_path / f"{EVIL}.txt"
    path.write_text(f"The Dormouse {ESC}sleeps{CSI} in {OVERRIDE} the teapot.")
    broken = tmp_path / f"broken{EVIL}.txt"
    broken.write_bytes(b"\0\1")
    results = [
        run("ingest", path, broken, tmp_path / f"gone{EVIL}.txt", "--corpus", "library", "--limit", "seconds=60"),
        run("corpus", "show", "library"),
        run("ask", "library", "Where does the Dormouse sleep?", "--max-new-tokens", 4),
        run("corpus", "rm", "library", f"nothing{EVIL}"),
        run("ask", "library", EVIL, "--document", f"no{EVIL}", "--max-new-tokens", 1),
        run("ingest", path, "--corpus", "library", "--exclude", f"#{EVIL}"),
        run("corpus", "verify", f"c{EVIL}"),
        run(f"verb{EVIL}"),
    ]
    for result in results:
        assert not STEERING.search(result.out + without_bar(result)), result
    said = [line for line in without_bar(results[0]).splitlines() if line]
    assert len(said) == 2  # a name with a line break is still one line
    shown = run("corpus", "show", "library", "--json")
    assert not STEERING.search(shown.out)
    assert str(path) in [document["document"] for document in shown.json["documents"]]
    again = run("ingest", broken, "--corpus", "library", "--json")
    assert again.json["skipped"][0]["document"] == str(broken)
    asked = run("ask", "library", "Where does the Dormouse sleep?", "--max-new-tokens", 4, "--json")
    assert not STEERING.search(asked.out) and str(path) in [p["document"] for p in asked.json["passages"]]


def without_bar(result):
    return re.sub(r"\rcompress[^\r\n]*", "", result.err)


def test_answers_keep_their_lines(capfd):
    output.say("First line.\nSecond \x1b]0;title\x07line.", end="")
    assert capfd.readouterr().out == "First line.\nSecond \\x1b]0;title\\x07line."


def test_json_is_exact(capfd):
    output.emit({"name": EVIL, "other": "é"})
    out = capfd.readouterr().out
    assert json.loads(out) == {"name": EVIL, "other": "é"} and not STEERING.search(out)


def test_commands_print_through_what_makes_text_safe():
    allowed = {"output.py": 3, "app.py": 3}  # its own doors; help, version, and the output that cannot be written
    for path in Path(cli.__file__).parent.glob("*.py"):
        code = path.read_text()
        assert len(re.findall(r"typer\.echo\(|click\.echo\(|\bprint\(", code)) == allowed.get(path.name, 0), path.name
