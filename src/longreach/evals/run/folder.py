"""The folder of an evaluation: whose it is, and its files.

run.json           suite, settings, seed, digest of the samples, identities of the systems,
                   versions, hardware, command
predictions.jsonl  one line a prediction, as they come
scores.json        means over the samples, with intervals; written last
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from longreach.errors import UsageError
from longreach.evals.run.predictions import PREDICTIONS, Predictions
from longreach.evals.scores.overlap import SCORING
from longreach.jsontext import JsonObject, JsonValue, read_field
from longreach.training.common import run

if TYPE_CHECKING:
    import torch

SCORES = "scores.json"
RUN = "run.json"
FORMAT = 1
COSTS = ("ingest_seconds", "study_seconds")
"""What a system's identity in run.json may also hold: what it took to prepare, once, measured while
it was done."""


def digest_of(asked: Iterable[Mapping[str, object]]) -> str:
    """Returns the SHA-256 of everything that is asked, as JSON."""
    digest = hashlib.sha256()
    for one in asked:
        # Keys are sorted: the order in which a dictionary was filled is no difference.
        digest.update(json.dumps(one, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def make_header(
    suite: str,
    settings: Mapping[str, object],
    seed: int,
    digest: str,
    samples: int,
    systems: Mapping[str, Mapping[str, object]],
    arguments: Sequence[str],
    device: torch.device,
) -> JsonObject:
    """Returns what run.json is to hold, without its date and format.

    Args:
        suite: Its name.
        settings: What the samples were made with.
        seed: Of the samples.
        digest: Of the samples; see `digest_of`.
        samples: How many they are.
        systems: Identities by name.
        arguments: Of the command line.
        device: Where systems work.
    """
    from longreach.models.machine import record

    machine = record(arguments, device)
    return {
        "suite": suite,
        "settings": dict(settings),
        "seed": seed,
        "samples": samples,
        "samples_digest": digest,
        # In files systems are called "readers": the names of JSON do not change.
        "readers": dict(systems),
        "versions": machine["versions"],
        "hardware": machine["hardware"],
        "command": machine["command"],
    }


@contextmanager
def opened(folder: Path, header: Mapping[str, JsonValue]) -> Iterator[Predictions]:
    """Makes `folder` the run that `header` describes, or finds that it is, for one process at once.

    The command and the date of a run are those of its start.

    Args:
        folder: One that does not exist yet, an empty one, or one of the same run.
        header: See `make_header`.

    Yields:
        The predictions that are there.

    Raises:
        UsageError: The folder holds something else, a run of other settings, systems, samples or on
            another machine, or predictions that are damaged; or another process writes there.
    """
    run.refuse_foreign(folder)
    there = run.settings_of(folder)
    # Runs of training and of evaluations keep their settings in files of one name.
    if there and "longreach_run" not in there:
        raise UsageError(
            f"'{folder}' is the folder of a training run: give another one with --out."
        )
    begun: JsonObject = {key: there[key] for key in ("command", "started") if key in there}
    # What a resumed run had at its start comes last, and so stays.
    now = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "longreach_run": FORMAT}
    known = read_field({"readers": {}} | there, "readers", dict)
    systems = {}
    for name, identity in read_field(header, "readers", dict).items():
        # What an earlier start has measured is kept, since it is not measured again.
        systems[name] = {**_costs_of(known.get(name, {})), **identity}
    run.claim(folder, {**header, "readers": systems, **now, **begun})
    # Two processes would write into each other's lines.
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


def _costs_of(identity: Mapping[str, object]) -> dict[str, object]:
    """Returns what preparing a system took: a run that is resumed does not measure it again."""
    found = {}
    for key in COSTS:
        if key in identity:
            found[key] = identity[key]
    return found


def note_costs(folder: Path, system: str, costs: Mapping[str, float]) -> None:
    """Writes beside a system's identity what its preparation took."""
    header = run.settings_of(folder)
    read_field(header, "readers", dict)[system] |= costs
    run.write_json(folder / RUN, header)


def write_scores(folder: Path, rows: Sequence[Mapping[str, JsonValue]]) -> JsonObject:
    """Writes scores.json, whole or not at all, and returns what is in it."""
    scores = {"scoring": SCORING, "rows": list(rows)}
    run.write_json(folder / SCORES, scores)
    return scores
