"""The folder that a run of `longreach eval` leaves, read back and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from longreach.errors import UsageError
from longreach.evals.report.base import SuiteReport
from longreach.evals.run.folder import COSTS, FORMAT, RUN, SCORES
from longreach.evals.run.predictions import PREDICTIONS
from longreach.evals.run.rows import MEANS, JsonObject, Row
from longreach.evals.scores.overlap import SCORING
from longreach.evals.suites.registry import find_report
from longreach.jsontext import JsonValue, Kinds, misfit, parse_json

FILES = (RUN, PREDICTIONS, SCORES)
_TEXT = (str,)
_NUMBER = (int, float)
_RECORD: Kinds = {
    "suite": _TEXT,
    "settings": (dict,),
    "seed": (int,),
    "samples": (int,),
    "samples_digest": _TEXT,
    "readers": (dict,),
    "versions": (dict,),
    "hardware": (dict,),
    "command": _TEXT,
    "started": _TEXT,
}
_TO_SCORE: Kinds = {
    "suite": _TEXT,
    "question": _TEXT,
    "answers": (list,),
    "prediction": _TEXT,
    "metric": _TEXT,
}
"""What a line has to hold so that it can be scored by the rules of this release."""
_OPTIONAL: Kinds = {"metric": _TEXT} | dict.fromkeys(
    (*MEANS, *COSTS, "tokens_per_second"), (*_NUMBER, NoneType)
)


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: Of its folder.
        record: What was run, as in run.json.
        predictions: One a line of predictions.jsonl.
        rows: Of scores.json; None where the run did not come to its end.
        rescored: Whether an earlier release scored it by other rules, and this one scored it again.
    """

    name: str
    record: Mapping[str, Any]
    predictions: Sequence[Row]
    rows: Sequence[Row] | None
    rescored: bool = False

    @property
    def suite(self) -> str:
        """Name of the suite."""
        return str(self.record["suite"])

    @property
    def systems(self) -> Mapping[str, Mapping[str, JsonValue]]:
        """What decides the predictions of each system, by its name."""
        found: Mapping[str, Mapping[str, JsonValue]] = self.record["readers"]
        return found

    @property
    def state(self) -> str:
        """ "finished", or how far it came."""
        if self.rows is not None:
            return "finished"
        unit = find_report(self.suite).unit
        answered = {(line["reader"], line[unit]) for line in self.predictions}
        wanted = self.record["samples"] * len(self.systems)
        return f"unfinished, {len(answered):,} of {wanted:,}"


def read_run(folder: str | Path) -> Run:
    """Returns the run in a folder, whether it came to its end or not.

    The last line of an unfinished run may be half of one: another process is writing it, or was
    killed at it.

    Raises:
        UsageError: There is no such folder, it holds no run, or a file of it is damaged; a line of
            the predictions is named by its number.
    """
    place = Path(folder)
    record = _read_record(place)
    # A path like "." has no name of its own.
    name = place.resolve().name
    report = find_report(record["suite"])
    rows = None
    outdated = False
    if (place / SCORES).exists():
        scores = _read_scores(place, report)
        rows = scores["rows"]
        outdated = report.scored and scores.get("scoring") != SCORING
    fields = dict(report.line_fields)
    # These lines are still to be added up.
    if rows is None or outdated:
        fields |= report.unscored_fields
    lines = list(_read_lines(place / PREDICTIONS, fields, whole=rows is not None))
    predictions = list(map(report.rescore, lines))
    if outdated:
        return Run(name, record, predictions, report.add_up(predictions), rescored=True)
    # Lines of one run may come from two releases, where it was resumed with the newer one.
    if rows is None and report.scored:
        outdated = any(line.get("scoring") != SCORING for line in lines)
    return Run(name, record, predictions, rows, outdated)


def _read_record(place: Path) -> JsonObject:
    # It is the first file that a run writes.
    if not (place / RUN).is_file():
        raise UsageError(
            f"'{place}' is not the folder of a run: give one that `longreach eval` wrote."
        )
    record = _read_json(place / RUN)
    if not isinstance(record, dict) or record.get("longreach_run") != FORMAT:
        raise UsageError(
            f"'{place / RUN}' is not a run of this version of longreach: run the evaluation again."
        )
    _check(record, _RECORD, f"'{place / RUN}'")
    for system, identity in record["readers"].items():
        if not isinstance(identity, dict):
            raise UsageError(
                f"'{place / RUN}' lacks what identifies a system: run the evaluation again."
            )
        _check(identity, {}, f"The system '{system}' of '{place / RUN}'")
    return record


def _read_scores(place: Path, report: SuiteReport) -> JsonObject:
    scores = _read_json(place / SCORES)
    if not isinstance(scores, dict) or not isinstance(scores.get("rows"), list):
        raise UsageError(
            f"'{place / SCORES}' holds no scores: remove it, and run the evaluation again."
        )
    for row in scores["rows"]:
        _check(row, report.row_fields, f"A row of '{place / SCORES}'")
    return scores


def _read_lines(path: Path, fields: Kinds, *, whole: bool) -> Iterator[JsonObject]:
    lines: list[str] = []
    if path.exists() or whole:
        lines = _read_text(path).split("\n")
    # Behind the last line break there is nothing, or half of a line.
    last = lines.pop() if lines else ""
    # A run that came to its end has no half of a line.
    if whole and last:
        lines.append(last)
    for number, line in enumerate(lines, 1):
        where = f"Line {number} of '{path}'"
        try:
            found: Any = _parse(line)
        except ValueError as error:
            raise UsageError(
                f"{where} is not JSON ({error}): remove it, and run the evaluation again."
            ) from error
        _check(found, fields, where)
        # It is to be scored anew, which takes more than its score.
        if "metric" in found and found.get("scoring") != SCORING:
            _check(found, _TO_SCORE, where)
            answers = found["answers"]
            if not answers or not all(isinstance(answer, str) for answer in answers):
                raise UsageError(f"{where} lacks answers that are texts: run the evaluation again.")
        yield found


def _read_json(path: Path) -> JsonValue:
    text = _read_text(path)
    try:
        return _parse(text)
    except ValueError as error:
        raise UsageError(
            f"'{path}' is damaged ({error}): remove it, and run the evaluation again."
        ) from error


def _parse(text: str) -> JsonValue:
    # What is not a number was not measured.
    return parse_json(text, nan=lambda name: None)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(
            f"'{path}' cannot be read ({reason}): fix that, or run the evaluation again."
        ) from error


def _check(values: JsonValue, fields: Kinds, where: str) -> None:
    name = _find_misfit(values, fields)
    if name is not None:
        raise UsageError(
            f"{where} lacks '{name}', or holds something else there: run the evaluation again."
        )


def _find_misfit(values: Any, fields: Kinds) -> str | None:
    """Returns the name under which values do not hold what they should; None where they do."""
    name = misfit(values, fields)
    if name is not None:
        return name
    # Earlier releases did not write all of these.
    optional = {name: kinds for name, kinds in _OPTIONAL.items() if name in values}
    name = misfit(values, optional)
    if name is not None:
        return name
    bucket = values.get("bucket")
    if isinstance(bucket, list) and [type(end) for end in bucket] != [int, int]:
        return "bucket"
    tags = values.get("tags")
    if isinstance(tags, dict) and "depth" in tags:
        return misfit(tags, {"depth": _NUMBER})
    return None
