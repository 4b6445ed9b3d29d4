"""`python -m tests.fuzz`: runs every fuzzer with one seed, prints what was tried, and fails where a promise broke."""

import argparse
import json
import platform
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.fuzz import artefacts, documents, hostile, kills, threads
from tests.fuzz.tally import Tally

_COUNTS = {"documents": 3000, "corpora": 1500, "others": 1600, "kills": 300, "threads": 400}


def main() -> int:
    """Runs the fuzzers; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the full counts; hostile files are all tried")
    parser.add_argument("--only", choices=[*_COUNTS, "hostile"], action="append")
    parser.add_argument("--out", type=Path, help="write the counts there as JSON")
    given = parser.parse_args()
    counts = {name: max(1, round(count * given.share)) for name, count in _COUNTS.items()}
    tallies = []
    for name in given.only or [*_COUNTS, "hostile"]:
        with tempfile.TemporaryDirectory(prefix="longreach-fuzz-") as scratch:
            tally = fuzz(name, counts.get(name, 0), given.seed, Path(scratch))
        tallies.append(tally)
        print(f"{tally.what}: {tally.tried} tried in {tally.seconds} s, {len(tally.failures)} failures")
        print("  " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(tally.outcomes.items())))
        for failure in tally.failures:
            print(f"  FAILED {failure}")
        sys.stdout.flush()
    if given.out:
        about = {"command": sys.argv[1:], "when": datetime.now(UTC).isoformat(timespec="seconds")}
        about |= {"python": platform.python_version(), "machine": platform.machine(), "seed": given.seed}
        given.out.write_text(json.dumps({**about, "fuzzers": [asdict(tally) for tally in tallies]}, indent=1) + "\n")
    return 1 if any(tally.failures for tally in tallies) else 0


def fuzz(name: str, count: int, seed: int, folder: Path) -> Tally:
    """Runs one fuzzer in a folder of its own."""
    if name == "documents":
        return documents.run(count, seed, folder)
    if name == "corpora":
        return artefacts.run_corpora(count, seed, folder)
    if name == "others":
        return artefacts.run_others(count, seed, folder)
    if name == "kills":
        return kills.run(count, seed, folder)
    if name == "threads":
        return threads.run(count, seed, folder)
    return hostile.run(folder)


if __name__ == "__main__":
    sys.exit(main())
