"""The command as a process of its own: what it imports, pipes that break, Ctrl-C, and its help."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import run_here

ROOT = Path(__file__).parents[2]
MAIN = "import sys; from longreach.cli import main; main(sys.argv[1:])"


def start(*arguments, code=MAIN, **options):
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **(piped | options))


def help_pages():
    import typer

    from longreach.cli.app import app

    def below(command, path):
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from below(child, [*path, name])

    return list(below(typer.main.get_command(app), []))


@pytest.mark.parametrize("path", help_pages(), ids=lambda path: " ".join(path) or "longreach")
def test_every_help_has_an_example_and_ignores_the_terminal(capfd, monkeypatch, path):
    pages = set()
    for columns in ("40", "80", "300"):
        monkeypatch.setenv("COLUMNS", columns)
        result = run_here(capfd, *path, "--help")
        assert result.code == 0 and "Example: longreach" in result.out and not result.err
        pages.add(result.out)
    assert len(pages) == 1


def test_docs_are_current(capfd, monkeypatch):
    script = runpy.run_path(str(ROOT / "scripts" / "cli_docs.py"))
    assert script["main"](["--check"]) == 0, capfd.readouterr().err
    monkeypatch.setitem(script["main"].__globals__, "HEAD", "# Another")
    assert script["main"](["--check"]) == 1 and "is stale" in capfd.readouterr().err


def test_help_imports_nothing_heavy():
    code = f"""import sys, atexit, longreach
atexit.register(lambda: print(sorted({{"torch", "transformers", "lancedb", "numpy"}} & set(sys.modules))))
{MAIN}"""
    process = start("--help", code=code)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and not err
    assert "Commands:" in out and out.splitlines()[-1] == "[]"


def test_the_installed_command():
    command = Path(sys.executable).with_name("longreach")
    if not command.exists():
        pytest.skip("the package is not installed with its script")
    assert subprocess.run([command, "--version"], capture_output=True, text=True).stdout.startswith("longreach ")


@pytest.mark.parametrize("arguments", [["--help"], ["nope", "--json"]])
@pytest.mark.parametrize("also_stderr", [False, True])
def test_a_pipe_whose_reader_went_away(arguments, also_stderr):
    read, write = os.pipe()
    os.close(read)
    process = start(*arguments, stdout=write, **({"stderr": write} if also_stderr else {}))
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    if not also_stderr:
        assert not err


SLOW = (
    """import sys
from longreach.corpus import ingest
ingest.FLUSH_PASSAGES = 1
real = ingest.Ingest._take
def slow(self, *args):
    import time
    print("one more", file=sys.stderr, flush=True)
    time.sleep(0.2)
    return real(self, *args)
ingest.Ingest._take = slow
"""
    + MAIN
)


@pytest.mark.slow
def test_ctrl_c_and_the_same_command_again(capfd, library, texts, models, tmp_path, run):
    book = tmp_path / "book.txt"
    book.write_text("".join(f"Line {number} of a long book.\n" for number in range(100)))
    ingest = ["ingest", book, "--corpus", "library"]
    process = start(*ingest, "--json", code=SLOW)
    lines = []
    while sum("one more" in line for line in lines) < 6:
        lines.append(process.stderr.readline())
        assert lines[-1], lines
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert '"KeyboardInterrupt"' in out and "resumes" in err and "Traceback" not in err
    assert run("corpus", "verify", "library").code == 0
    assert len(run("corpus", "show", "library", "--json").json["documents"]) == 2
    again = run(*ingest, "--json")
    assert again.code == 0 and again.json["added"] == [str(book)]
    whole = next(d for d in run("corpus", "show", "library", "--json").json["documents"] if d["document"] == str(book))
    assert again.json["passages"] <= whole["passages"] - 3  # the rest was kept


def test_libraries_say_nothing_and_show_no_bars_where_nobody_looks():
    """A process of its own: what a library warns of or counts is not part of a command's output."""
    code = """
import sys, warnings
from longreach.cli import app
def noisy(*_):
    warnings.warn("a matter for programmers", FutureWarning)
    from tqdm import tqdm
    for _ in tqdm(range(3), file=sys.stderr): pass
    sys.exit(0)
app._run = noisy
app.main([])
"""
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (plain.returncode, plain.stderr) == (0, "")
    asked = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True)
    assert "a matter for programmers" in asked.stderr
