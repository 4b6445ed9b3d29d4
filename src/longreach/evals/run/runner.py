"""Readers asked the samples of a suite, in one run that goes on where it was stopped.

The life of a run: `run.json` says what is asked of whom; batches are asked reader by reader, and
each prediction is a line in `predictions.jsonl` as soon as it is there; `scores.json` comes last.
Batches are cut from all samples before anything is asked, so that a run that went on predicts what
an uninterrupted one does: rounding depends on a batch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from longreach.errors import UsageError
from longreach.evals.run import folder as run
from longreach.evals.run.metrics import METRICS, scored
from longreach.evals.run.sample import Answering, Prediction, Sample
from longreach.evals.run.scores import SCORING
from longreach.training.common.frame import clock, stderr

_PREDICTED = (
    "read_tokens", "positions", "new_tokens", "first_token_seconds", "seconds", "kv_bytes", "peak_bytes",
)  # fmt: skip


def evaluate(
    samples: Sequence[Sample],
    readers: Sequence[Answering],
    folder: str | Path,
    *,
    suite: str,
    settings: Mapping[str, Any],
    seed: int = 0,
    batch_size: int = 1,
    arguments: Sequence[str] = (),
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = stderr,
) -> dict[str, Any]:
    """Asks every reader every sample that it can read, and scores the answers.

    A reader may have more methods than `Answering`: `reads(sample)` says whether it is asked a
    sample at all, `prepare(folder)` is called before it is asked, with the folder of the run, and
    returns what that took, by the names of `run.COSTS`, and `close()` is called after its last
    answer. Of a batch that was cut short, what is there stays and the rest is asked in the same
    company.

    Args:
        samples: The suite's, in order.
        readers: Each with its own name.
        folder: Of the run: a new one, or the same run's.
        suite: Its name.
        settings: What the samples were made with, as JSON.
        seed: Of the samples.
        batch_size: Samples of one task and length that are asked together.
        arguments: Of the command line, for the record.
        device: Where readers work, for the record.
        say: Is told how far it is.

    Returns:
        What is in scores.json: {"rows": [...]}, see `run.score_rows`.

    Raises:
        UsageError: There are no samples or readers, two of them share a name, or the folder is
            another run's.
    """
    _check(samples, readers, batch_size)
    folder, settings = Path(folder), {**settings, "batch_size": batch_size}
    asked, known = (run.digest_of(map(asdict, samples)), len(samples)), _identities(readers)
    header = run.header(suite, settings, seed, asked, known, arguments, torch.device(device))
    with run.opened(folder, header) as predictions:
        work = {reader.name: batches(readable(reader, samples), batch_size) for reader in readers}
        missing = {
            name: [
                batch
                for batch in asked
                if any((name, sample.id) not in predictions.lines for sample in batch)
            ]
            for name, asked in work.items()
        }
        progress = Progress(
            [_weight(sample) for own in missing.values() for batch in own for sample in batch], say
        )
        for reader in readers:
            for said in ask(reader, missing[reader.name], predictions, folder):
                at = f" at {said.length:,}" if said.length else ""
                progress.done(f"{reader.name}, {said.task}{at}")
        order = [
            (name, sample.id) for name, asked in work.items() for batch in asked for sample in batch
        ]
        return run.write_scores(
            folder, run.score_rows([scored(predictions.lines[key]) for key in order])
        )


def ask(
    reader: Answering,
    missing: Sequence[Sequence[Sample]],
    predictions: run.Predictions,
    folder: Path,
) -> Iterator[Sample]:
    """Asks one reader batches of samples, and keeps the predictions that are not there yet."""
    if missing and hasattr(reader, "prepare"):
        costs = reader.prepare(folder)
        if costs:
            run.note_costs(folder, reader.name, costs)
    try:
        for batch in missing:
            for sample, prediction in zip(batch, reader.answer(batch), strict=True):
                if (reader.name, sample.id) not in predictions.lines:
                    predictions.add(line_of(reader.name, sample, prediction))
                yield sample
    finally:
        if hasattr(reader, "close"):
            reader.close()


def line_of(reader: str, sample: Sample, prediction: Prediction) -> dict[str, Any]:
    """A prediction and its score as a line of predictions.jsonl."""
    said = asdict(prediction)
    return {
        "reader": reader,
        "suite": sample.suite,
        "task": sample.task,
        "id": sample.id,
        "document": sample.document,
        "length": sample.length,
        "tags": dict(sample.tags),
        "question": sample.question,
        "answers": list(sample.answers),
        "prediction": prediction.text,
        "metric": sample.metric,
        "score": METRICS[sample.metric](prediction.text, sample),
        "scoring": SCORING,
        **{key: said[key] for key in _PREDICTED},
    }


def readable(reader: Answering, samples: Sequence[Sample]) -> list[Sample]:
    """Those that a reader can read; all, where it has no say."""
    reads: Callable[[Sample], bool] = getattr(reader, "reads", lambda sample: True)
    return [sample for sample in samples if reads(sample)]


def batches(samples: Sequence[Sample], size: int) -> list[list[Sample]]:
    """Samples in their order, at most so many together, and only those of one task, length and way
    of asking."""
    found: list[list[Sample]] = []
    for sample in samples:
        if found and len(found[-1]) < size and _kind(found[-1][0]) == _kind(sample):
            found[-1].append(sample)
        else:
            found.append([sample])
    return found


def _kind(sample: Sample) -> tuple[Any, ...]:
    return sample.task, sample.length, sample.max_new_tokens, sample.chat


def _identities(readers: Sequence[Answering]) -> dict[str, dict[str, object]]:
    return {reader.name: dict(reader.identity()) for reader in readers}


def _check(samples: Sequence[Sample], readers: Sequence[Answering], batch_size: int) -> None:
    if not samples:
        raise UsageError("There are no samples: ask for at least one task, length and sample.")
    if not readers:
        raise UsageError("There are no readers: name at least one with --readers.")
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1.")
    check_names("readers are called", [reader.name for reader in readers])
    check_names("samples have the id", [sample.id for sample in samples])
    unknown = {sample.metric for sample in samples} - METRICS.keys()
    if unknown:
        raise UsageError(f"There is no metric '{min(unknown)}': use one of {', '.join(METRICS)}.")


def check_names(what: str, names: Sequence[str]) -> None:
    """Raises UsageError where two of them are the same: predictions are kept by them."""
    twice, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise UsageError(f"Two {what} '{twice}': give each a name of its own.")


class Progress:
    """Says how much is done and how long the rest takes.

    Args:
        weights: Of each piece of work, in order; such as the characters that are read.
        say: Is told a line at a time.
    """

    def __init__(self, weights: Sequence[int], say: Callable[[str], None]) -> None:
        self._weights, self._say = list(weights), say
        self._done = 0
        self._began = self._spoke = time.perf_counter()

    def done(self, what: str, every_seconds: float = 5.0) -> None:
        """Counts one more."""
        self._done += 1
        now, whole = time.perf_counter(), self._done == len(self._weights)
        if now - self._spoke < every_seconds and not whole:
            return
        self._spoke = now
        weight = sum(self._weights[: self._done])
        seconds = (now - self._began) * (sum(self._weights) - weight) / weight
        self._say(f"{self._done}/{len(self._weights)}  {what}  {clock(seconds)} left")


def _weight(sample: Sample) -> int:
    return len(sample.before) + len(sample.context) + len(sample.after) + sample.max_new_tokens
