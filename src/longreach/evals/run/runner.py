"""Systems asked the samples of a suite, in one run that is resumed where it was stopped.

The life of a run: `run.json` says what is asked of whom; batches are asked system by system, and
each prediction is a line in `predictions.jsonl` as soon as it is there; `scores.json` comes last.
Batches are cut from all samples before anything is asked, so that a run that was resumed predicts
what an uninterrupted one does: rounding depends on a batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from longreach.errors import UsageError
from longreach.evals.run import folder as run
from longreach.evals.run.predictions import Line, Predictions
from longreach.evals.run.progress import RunProgress
from longreach.evals.run.rows import JsonObject, score_rows
from longreach.evals.run.sample import Prediction, Sample
from longreach.evals.scores.metrics import METRICS, Metrics, rescore
from longreach.evals.scores.overlap import SCORING
from longreach.evals.systems.base import System
from longreach.wording import say_on_stderr

_PREDICTED = (
    "read_tokens",
    "positions",
    "new_tokens",
    "first_token_seconds",
    "seconds",
    "kv_bytes",
    "peak_bytes",
)
Batch = list[Sample]


def evaluate(
    samples: Sequence[Sample],
    systems: Sequence[System],
    folder: str | Path,
    *,
    suite: str,
    settings: Mapping[str, object],
    seed: int = 0,
    batch_size: int = 1,
    arguments: Sequence[str] = (),
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = say_on_stderr,
    metrics: Metrics = METRICS,
) -> JsonObject:
    """Asks every system every sample that it can read, and scores the answers.

    Of a batch that was cut short, what is there stays and the rest is asked in the same company.

    Args:
        samples: The suite's, in order.
        systems: Each with its own name.
        folder: Of the run: a new one, or the same run's.
        suite: Its name.
        settings: What the samples were made with, as JSON.
        seed: Of the samples.
        batch_size: Samples of one task and length that are asked together.
        arguments: Of the command line, for the record.
        device: Where systems work, for the record.
        say: Is told how far it is.
        metrics: Score answers, by the names that samples give.

    Returns:
        What is in scores.json: {"rows": [...]}, see `rows.score_rows`.

    Raises:
        UsageError: There are no samples or systems, two of them share a name, or the folder is
            another run's.
    """
    _check(samples, systems, batch_size, metrics)
    folder = Path(folder)
    # All of this decides whether a folder holds this run or another one.
    header = run.make_header(
        suite,
        {**settings, "batch_size": batch_size},
        seed,
        run.digest_of(map(asdict, samples)),
        len(samples),
        identify(systems),
        arguments,
        torch.device(device),
    )
    with run.opened(folder, header) as predictions:
        work = {}
        missing = {}
        for system in systems:
            asked = cut_batches(readable(system, samples), batch_size)
            work[system.name] = asked
            missing[system.name] = _drop_answered(system.name, asked, predictions)
        progress = RunProgress(list(map(_weight, _walk(missing))), say)
        for system in systems:
            for said in ask(system, missing[system.name], predictions, folder, metrics):
                at = f" at {said.length:,}" if said.length else ""
                progress.done(f"{system.name}, {said.task}{at}")
        # In the order of the work: a run that was resumed has its lines in another one.
        lines = []
        for name, asked in work.items():
            for sample in _walk({name: asked}):
                lines.append(rescore(predictions.lines[name, sample.id], metrics))
        return run.write_scores(folder, score_rows(lines))


def _walk(batches: Mapping[str, Sequence[Batch]]) -> Iterator[Sample]:
    """Yields the samples of batches, system by system."""
    for own in batches.values():
        for batch in own:
            yield from batch


def _drop_answered(system: str, batches: Sequence[Batch], predictions: Predictions) -> list[Batch]:
    """Returns the batches of which some prediction is not there yet."""
    found = []
    for batch in batches:
        if not all(predictions.has(system, sample.id) for sample in batch):
            found.append(batch)
    return found


def ask(
    system: System,
    missing: Sequence[Batch],
    predictions: Predictions,
    folder: Path,
    metrics: Metrics = METRICS,
) -> Iterator[Sample]:
    """Asks a system batches of samples, and keeps the predictions that are not there yet.

    Args:
        system: Is asked.
        missing: Batches of which some predictions are not there.
        predictions: Those of the run.
        folder: Of the run.
        metrics: Score answers, by the names that samples give.

    Yields:
        Each sample, when it was answered.
    """
    # Where nothing is missing nothing is prepared: it may take hours.
    if missing and hasattr(system, "prepare"):
        costs = system.prepare(folder)
        if costs:
            run.note_costs(folder, system.name, costs)
    try:
        for batch in missing:
            for sample, prediction in zip(batch, system.answer(batch), strict=True):
                # Of a batch that was cut short some are there already.
                if not predictions.has(system.name, sample.id):
                    value = metrics[sample.metric](prediction.text, sample)
                    predictions.add(make_line(system.name, sample, prediction, value))
                yield sample
    finally:
        # A peer may be a process that has to be ended.
        if hasattr(system, "close"):
            system.close()


def make_line(system: str, sample: Sample, prediction: Prediction, score: float) -> Line:
    """Returns a prediction and its score as a line of predictions.jsonl."""
    line = {
        "reader": system,
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
        "score": score,
        "scoring": SCORING,
    }
    for key in _PREDICTED:
        line[key] = getattr(prediction, key)
    return line


def readable(system: System, samples: Sequence[Sample]) -> list[Sample]:
    """Returns those samples that a system can read; all, where it does not say."""
    # Not every system has something to say about what it reads.
    reads: Callable[[Sample], bool] | None = getattr(system, "reads", None)
    if reads is None:
        return list(samples)
    return list(filter(reads, samples))


def cut_batches(samples: Sequence[Sample], size: int) -> list[Batch]:
    """Returns samples in batches, in order; those of a batch are asked in the same way.

    Args:
        samples: In order.
        size: Samples of a batch at most.
    """
    found = list[Batch]()
    for sample in samples:
        if found and len(found[-1]) < size and _kind(found[-1][0]) == _kind(sample):
            found[-1].append(sample)
        else:
            found.append([sample])
    return found


def _kind(sample: Sample) -> tuple[object, ...]:
    return sample.task, sample.length, sample.max_new_tokens, sample.chat


def _weight(sample: Sample) -> int:
    """Returns about how much work a sample is: characters to read and tokens to write."""
    # A token that is written takes about as long as reading a character.
    text = len(sample.before) + len(sample.context) + len(sample.after)
    return text + sample.max_new_tokens


def _check(
    samples: Sequence[Sample], systems: Sequence[System], batch_size: int, metrics: Metrics
) -> None:
    if not samples:
        raise UsageError("There are no samples: ask for at least one task, length and sample.")
    if not systems:
        raise UsageError("There are no systems: name at least one with --systems.")
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1.")
    # Predictions are found again by these.
    check_names("samples have the id", [sample.id for sample in samples])
    for sample in samples:
        if sample.metric not in metrics:
            known = ", ".join(metrics)
            raise UsageError(f"There is no metric '{sample.metric}': use one of {known}.")


def identify(systems: Sequence[System]) -> dict[str, Mapping[str, object]]:
    """Returns the identities of systems by name.

    Raises:
        UsageError: Two of them share a name.
    """
    check_names("systems are called", [system.name for system in systems])
    return {system.name: system.identity() for system in systems}


def check_names(what: str, names: Sequence[str]) -> None:
    """Raises UsageError where two names are the same: predictions are kept by them."""
    twice, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise UsageError(f"Two {what} '{twice}': give each a name of its own.")
