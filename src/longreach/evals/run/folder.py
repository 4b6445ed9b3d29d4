"""The folder of an evaluation: whose it is, which predictions are there, and their scores.

run.json           suite, settings, seed, digest of the samples, identities of the readers,
versions, hardware, command predictions.jsonl  one line a prediction, as they come
scores.json        means over the samples, with intervals; written last
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import filelock

from longreach.errors import UsageError
from longreach.evals.run.scores import SCORING, mean_interval
from longreach.jsontext import parse_object
from longreach.training.common import run

if TYPE_CHECKING:
    import torch

PREDICTIONS, SCORES, RUN = "predictions.jsonl", "scores.json", "run.json"
FORMAT = 1
COSTS = ("ingest_seconds", "study_seconds")
"""What a reader's identity in run.json may also hold: what it took to prepare, once, measured while
it was done."""


def digest_of(asked: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of everything that is asked, as JSON."""
    digest = hashlib.sha256()
    for one in asked:
        digest.update(json.dumps(one, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def header(
    suite: str,
    settings: Mapping[str, Any],
    seed: int,
    asked: tuple[str, int],
    readers: Mapping[str, Mapping[str, object]],
    arguments: Sequence[str],
    device: torch.device,
) -> dict[str, Any]:
    """What run.json is to hold.

    Args:
        suite: Its name.
        settings: What the samples were made with.
        seed: Of the samples.
        asked: Their digest and how many they are.
        readers: Identities by name.
        arguments: Of the command line.
        device: Where readers work.
    """
    from longreach.models.machine import record

    machine = record(arguments, device)
    return {
        "suite": suite,
        "settings": dict(settings),
        "seed": seed,
        "samples": asked[1],
        "samples_digest": asked[0],
        "readers": {name: dict(identity) for name, identity in readers.items()},
        **{key: machine[key] for key in ("versions", "hardware", "command")},
    }


@contextmanager
def opened(folder: Path, header: Mapping[str, Any]) -> Iterator[Predictions]:
    """Makes `folder` the run that `header` describes, or finds that it is; for one process at a
    time.

    The command and the date of a run are those of its start.

    Args:
        folder: One that does not exist yet, an empty one, or one of the same run.
        header: What run.json is to hold, without its date and format.

    Raises:
        UsageError: The folder holds something else, a run of other settings, readers, samples or on
            another machine, or predictions that are damaged; or another process writes there.
    """
    run.refuse_foreign(folder)
    there = run.settings_of(folder)
    if there and "longreach_run" not in there:
        raise UsageError(
            f"'{folder}' is the folder of a training run: give another one with --out."
        )
    kept: dict[str, Any] = {key: there[key] for key in ("command", "started") if key in there}
    readers = {
        name: (
            {
                key: value
                for key, value in there.get("readers", {}).get(name, {}).items()
                if key in COSTS
            }
            | identity
        )
        for name, identity in header["readers"].items()
    }
    now = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "longreach_run": FORMAT}
    run.claim(folder, {**header, "readers": readers, **now, **kept})
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise UsageError(
            f"Another process works on the run in '{folder}': wait until it has ended."
        ) from error
    try:
        with (folder / PREDICTIONS).open("ab+") as file:
            yield Predictions(folder, file)
    finally:
        lock.release()


def note_costs(folder: Path, reader: str, costs: Mapping[str, float]) -> None:
    """Writes beside a reader's identity what its preparation took."""
    header = run.settings_of(folder)
    header["readers"][reader] |= costs
    run.write_json(folder / RUN, header)


class Predictions:
    """The predictions of a run, by reader and sample; a line whose end was cut off is dropped.

    Raises:
        UsageError: A whole line is damaged.
    """

    def __init__(self, folder: Path, file: BinaryIO) -> None:
        self.folder, self._file = folder, file
        self.lines: dict[tuple[str, str], dict[str, Any]] = {}
        file.seek(0)
        whole = 0
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                entry = parse_object(line, nan=float)
                self.lines[entry["reader"], entry["id"]] = entry
            except (ValueError, KeyError, TypeError) as error:
                raise UsageError(
                    f"Line {number} of '{folder / PREDICTIONS}' is damaged: remove it, and it is"
                    " asked again."
                ) from error
            whole += len(line)
        file.truncate(whole)

    def add(self, line: dict[str, Any]) -> None:
        """Keeps one more, at once."""
        self._file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self._file.flush()
        self.lines[line["reader"], line["id"]] = line


def write_scores(folder: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Writes scores.json, whole or not at all, and returns what is in it."""
    scores = {"scoring": SCORING, "rows": list(rows)}
    run.write_json(folder / SCORES, scores)
    return scores


def score_rows(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each reader, task and length, in their order, and one for the mean over tasks of
    each length.

    Scores are percent, with a 95% bootstrap interval over the samples, None where there are too few
    of them; that of a mean weighs every task the same, however many samples it has. Other figures
    are means over samples; tokens a second are of writing, after the first.

    Args:
        lines: Of predictions.jsonl.
    """
    groups: dict[tuple[str, int], dict[str, list[Mapping[str, Any]]]] = {}
    for line in lines:
        tasks = groups.setdefault((line["reader"], line["length"]), defaultdict(list))
        tasks[line["task"]].append(line)
    rows = []
    for (reader, length), tasks in groups.items():
        rows += [_row(reader, task, length, {task: own}) for task, own in tasks.items()]
        if len(tasks) > 1:
            rows.append(_row(reader, "mean", length, tasks))
    return rows


MEANS = ("positions", "read_tokens", "first_token_seconds", "seconds", "kv_bytes", "peak_bytes")


def _row(
    reader: str, task: str, length: int, tasks: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    lines = [line for own in tasks.values() for line in own]
    found = mean_interval([[100 * line["score"] for line in own] for own in tasks.values()])
    written = sum(max(0, line["new_tokens"] - 1) for line in lines)
    writing = sum(
        line["seconds"] - line["first_token_seconds"] for line in lines if line["new_tokens"] > 1
    )
    metrics = sorted({line["metric"] for line in lines})
    return {
        "reader": reader,
        "task": task,
        "length": length,
        "metric": metrics[0] if len(metrics) == 1 else "mixed",
        "samples": len(lines),
        "score": found.mean,
        "low": found.low,
        "high": found.high,
        **{key: sum(line[key] for line in lines) / len(lines) for key in MEANS},
        "tokens_per_second": written / writing if writing > 0 else None,
    }
