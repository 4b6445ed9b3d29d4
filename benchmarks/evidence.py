"""The whole evidence as one command: every suite in every way of reading, and a report; it goes on
where it stopped.

    python benchmarks/evidence.py OUT --data fairytaleqa=FOLDER --data qmsum=FILE --data
    squality=FILE --data texts=PATH

Two cores take less than two hours, or with `--quick` less than ten minutes; `--device cuda` asks
everything at lengths to 32K. On a CPU two suites run at a time, each on its half of the cores, so
that seconds are those of a busy machine. Each is a run of `longreach eval` in a folder of its own
below OUT, with what it said in OUT/logs; the report over all of them is OUT/report.html and
OUT/report.md. OUT/evidence.json holds the command, the machine and for each suite the seconds it
was thought to take and took. What has no data is left out and named; what fails is named, and the
next one runs. `--hybrid FOLDER` adds a hybrid that `longreach extend` trained beside one that is
only converted.

Data by name: fairytaleqa, qmsum, squality; texts, held out, for perplexity; RULER's qa_1 and qa_2;
bAbI's folder, babi.
"""

import argparse
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch
from evidence_plan import DATA, DOCUMENTS, Step, steps

from longreach.errors import LongreachError
from longreach.evals.run.folder import RUN, SCORES
from longreach.models.device import check_device
from longreach.models.machine import record
from longreach.training.common.run import write_json
from longreach.wording import format_clock


def run(
    step: Step, out: Path, threads: int | None, known: dict[str, Any], save: Callable[[], None]
) -> None:
    """Runs one step, or goes on with it; notes its seconds as they pass: those of a try that was
    killed count."""
    if known["state"] == "finished" and (out / step.name / SCORES).is_file():
        return
    print(f"{step.name} ...", flush=True)
    log = out / "logs" / f"{step.name}.log"
    began, before, used = time.monotonic(), dict(known), 0.0
    environment = ({"OMP_NUM_THREADS": str(threads)} if threads else {}) | os.environ
    with log.open("ab") as file:
        command = [
            sys.executable,
            "-m",
            "longreach.cli",
            *step.words,
            "--out",
            str(out / step.name),
        ]
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            preexec_fn=_end_with_parent,
        )
        while True:
            with contextlib.suppress(psutil.Error):
                spent = psutil.Process(child.pid).cpu_times()
                used = max(used, spent.user + spent.system)
            known["seconds"] = round(before["seconds"] + time.monotonic() - began, 1)
            known["processor_seconds"] = round(before["processor_seconds"] + used, 1)
            save()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=1)
                break
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
    known["state"] = (
        "failed: " + lines[-1].removeprefix("longreach: ") if child.returncode else "finished"
    )
    save()
    print(f"{step.name}: {known['state']}, {format_clock(known['seconds'])}", flush=True)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _end_with_parent() -> None:
    """A step does not outlive this process, however that ends: its run would be locked to the next
    one."""
    if _LIBC:
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def report(planned: list[Step], out: Path) -> int:
    """Puts everything that is there into one report."""
    runs = [str(out / step.name) for step in planned if (out / step.name / RUN).is_file()]
    ends = ["--out", str(out / "report.html"), "--markdown", str(out / "report.md")]
    return subprocess.run(
        [sys.executable, "-m", "longreach.cli", "report", *runs, *ends]
    ).returncode


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--quick", action="store_true", help="few samples")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--hybrid", help="the folder of a trained hybrid of the same model")
    parser.add_argument("--compressor", help="of documents [default: the model's]")
    parser.add_argument(
        "--haystack", help="prose of needles and facts [default: a novel that comes with longreach]"
    )
    parser.add_argument(
        "--data", action="append", default=[], metavar="NAME=PATH", help="several times; see above"
    )
    return parser


def main() -> None:
    parser = arguments()
    given = parser.parse_args()
    pairs = [one.partition("=")[::2] for one in given.data]
    names = [*DOCUMENTS, *(name for some in DATA.values() for name in some)]
    for name, path in pairs:
        if name not in names or not path:
            parser.error(
                f"--data is '{name}={path}': give NAME=PATH with a name out of {', '.join(names)}."
            )
    given.data = dict(pairs)
    if given.hybrid and not _is_hybrid(Path(given.hybrid)):
        parser.error(
            f"'{given.hybrid}' holds no hybrid model: give a folder that `longreach extend` wrote."
        )
    try:
        check_device(given.device)
        planned, left_out = steps(given)
    except LongreachError as error:
        parser.error(str(error))
    place = given.out / "evidence.json"
    there = json.loads(place.read_bytes()) if place.is_file() else {"runs": {}}
    runs: dict[str, Any] = {}
    for step in planned:
        command = " ".join(["longreach", *map(_short, step.words)])
        runs[step.name] = {
            "command": command,
            "estimate_seconds": step.seconds,
            "state": "",
            "seconds": 0.0,
        }
        runs[step.name] |= {"processor_seconds": 0.0} | there["runs"].get(step.name, {})
        if runs[step.name]["command"] != command:
            parser.error(
                f"'{given.out}' holds '{step.name}' of other options: "
                "give another folder, or those options."
            )
    (given.out / "logs").mkdir(parents=True, exist_ok=True)
    estimate = sum(step.seconds or 0.0 for step in planned)
    at_once = min(2, os.cpu_count() or 1) if given.device == "cpu" else 1
    threads = (os.cpu_count() or 1) // at_once if at_once > 1 else None
    shown = ["OUT" if Path(word) == given.out else _short(word) for word in sys.argv[1:]]
    evidence = record([], torch.device(given.device)) | {
        "command": " ".join(["python benchmarks/evidence.py", *shown]),
        "estimate_seconds": round(estimate / at_once) or None,
        "at_once": at_once,
        "threads_each": threads,
        "left_out": left_out,
        "seconds": there.get("seconds", 0.0),
        "runs": runs,
    }
    for name, why in left_out.items():
        print(f"left out {name}: {why}", flush=True)
    hoped = (
        f"estimate: {format_clock(estimate / at_once)} on idle cores"
        if estimate
        else "no estimate for this device"
    )
    print(hoped, flush=True)
    before, began, lock = evidence["seconds"], time.monotonic(), threading.Lock()

    def save() -> None:
        with lock:
            evidence["seconds"] = round(before + time.monotonic() - began, 1)
            write_json(place, evidence)

    # The longest first, so that both end at about the same time.
    with ThreadPoolExecutor(at_once) as pool:
        tasks = [
            pool.submit(run, step, given.out, threads, runs[step.name], save)
            for step in sorted(planned, key=lambda step: -(step.seconds or 0.0))
        ]
        try:
            for task in tasks:
                task.result()
        finally:
            pool.shutdown(cancel_futures=True)
    save()
    failed = [name for name, known in runs.items() if known["state"] != "finished"]
    code = report(planned, given.out)
    print(
        f"not measured: {', '.join(failed)}"
        if failed
        else f"all measured in {format_clock(evidence['seconds'])}",
        flush=True,
    )
    sys.exit(1 if failed or code else 0)


def _short(word: str) -> str:
    """A word of a command, a path by its last part only: it is one of this machine and changes no
    figure."""
    option, equals, path = word.rpartition("=")
    return option + equals + (Path(path).name if Path(path).exists() else path)


def _is_hybrid(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and "sparse_attention" in json.loads(config.read_bytes())


if __name__ == "__main__":
    main()
