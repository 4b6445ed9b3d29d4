"""The folder that a run of `longreach eval` leaves, read back: what was run, every prediction, the
scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from longreach.errors import UsageError
from longreach.evals.run.folder import COSTS, FORMAT, MEANS, PREDICTIONS, RUN, SCORES, score_rows
from longreach.evals.run.metrics import scored
from longreach.evals.run.scores import SCORING
from longreach.jsontext import Kinds, misfit, parse_json

FILES = (RUN, PREDICTIONS, SCORES)
MEAN = "mean"
"""The task of the rows that hold the mean over a suite's tasks."""
_TEXT, _NUMBER = (str,), (int, float)
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
_INTERVAL: Kinds = {"score": _NUMBER, "low": (*_NUMBER, NoneType), "high": (*_NUMBER, NoneType)}
_ANSWER: Kinds = {
    "reader": _TEXT,
    "task": _TEXT,
    "id": _TEXT,
    "length": (int,),
    "tags": (dict,),
    "score": _NUMBER,
}
_ANSWERS: Kinds = {"reader": _TEXT, "task": _TEXT, "length": (int,), "samples": (int,), **_INTERVAL}
_TO_SCORE: Kinds = {
    "suite": _TEXT,
    "question": _TEXT,
    "answers": (list,),
    "prediction": _TEXT,
    "metric": _TEXT,
}
"""What a line has to hold so that it can be scored anew, by the rules of this release."""
_UNSCORED: Kinds = {"metric": _TEXT, "new_tokens": (int,), **dict.fromkeys(MEANS, _NUMBER)}
_BUCKET: Kinds = {
    "reader": _TEXT,
    "task": _TEXT,
    "bucket": (list,),
    "tokens": (int,),
    "nll": _NUMBER,
}
_BUCKETS: Kinds = {
    "reader": _TEXT,
    "bucket": (list,),
    "tokens": (int,),
    "perplexity": (*_NUMBER, NoneType),
}
_OPTIONAL: Kinds = {"metric": _TEXT} | dict.fromkeys(
    (*MEANS, *COSTS, "tokens_per_second"), (*_NUMBER, NoneType)
)


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: of its folder.
        record: what was run, as in run.json.
        predictions: one a line of predictions.jsonl.
        rows: of scores.json; None where the run did not come to its end.
        rescored: whether an earlier release scored it by other rules, and this one did anew.
    """

    name: str
    record: Mapping[str, Any]
    predictions: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]] | None
    rescored: bool = False

    @property
    def suite(self) -> str:
        """What was asked."""
        return str(self.record["suite"])

    @property
    def readers(self) -> Mapping[str, Mapping[str, Any]]:
        """What decides the predictions of each reader, by its name."""
        found: Mapping[str, Mapping[str, Any]] = self.record["readers"]
        return found

    @property
    def state(self) -> str:
        """ "finished", or how far it came."""
        if self.rows is not None:
            return "finished"
        # There a text is read at once, for lines by bucket.
        each = "task" if self.suite == "perplexity" else "id"
        answered = len({(line["reader"], line[each]) for line in self.predictions})
        return f"unfinished, {answered:,} of {self.record['samples'] * len(self.readers):,}"


def read_run(folder: str | Path) -> Run:
    """Reads the folder of a run, whether it came to its end or not.

    The last line of an unfinished run may be half of one: another process is writing it, or was
    killed at it.

    Raises:
        UsageError: there is no such folder, it holds no run, or a file of it is damaged; a line of
            the predictions is named by its number.
    """
    place = Path(folder)
    if not (place / RUN).is_file():
        raise UsageError(
            f"'{folder}' is not the folder of a run: give one that `longreach eval` wrote."
        )
    record = _json(place / RUN)
    if not isinstance(record, dict) or record.get("longreach_run") != FORMAT:
        raise UsageError(
            f"'{place / RUN}' is not a run of this version of longreach: run the evaluation again."
        )
    _check(record, _RECORD, f"'{place / RUN}'")
    for reader, identity in record["readers"].items():
        if not isinstance(identity, dict):
            raise UsageError(
                f"'{place / RUN}' lacks what identifies a reader: run the evaluation again."
            )
        _check(identity, {}, f"The reader '{reader}' of '{place / RUN}'")
    of_text = record["suite"] == "perplexity"
    line_fields, row_fields = (_BUCKET, _BUCKETS) if of_text else (_ANSWER, _ANSWERS)
    rows = None
    scoring = SCORING
    if (place / SCORES).exists():
        scores = _json(place / SCORES)
        rows = scores.get("rows") if isinstance(scores, dict) else None
        if not isinstance(rows, list):
            raise UsageError(
                f"'{place / SCORES}' holds no scores: remove it, and run the evaluation again."
            )
        for row in rows:
            _check(row, row_fields, f"A row of '{place / SCORES}'")
        scoring = scores.get("scoring")
    rescored = scoring != SCORING and not of_text
    if (rows is None or rescored) and not of_text:  # these are still to be added up
        line_fields = {**line_fields, **_UNSCORED}
    predictions = list(_lines(place / PREDICTIONS, line_fields, whole=rows is not None))
    if of_text:
        return Run(place.resolve().name, record, predictions, rows)
    rescored = rescored or (
        rows is None and any(line.get("scoring") != SCORING for line in predictions)
    )
    predictions = [scored(line) for line in predictions]
    if rows is not None and rescored:
        rows = score_rows(predictions)
    return Run(place.resolve().name, record, predictions, rows, rescored)


def _lines(path: Path, fields: Kinds, *, whole: bool) -> Iterator[dict[str, Any]]:
    lines = _text(path).split("\n") if path.exists() or whole else []
    last = lines.pop() if lines else ""
    if whole and last:
        lines.append(last)
    for number, line in enumerate(lines, 1):
        where = f"Line {number} of '{path}'"
        try:
            found = _loads(line)
        except ValueError as error:
            raise UsageError(
                f"{where} is not JSON ({error}): remove it, and run the evaluation again."
            ) from error
        _check(found, fields, where)
        if "metric" in found and found.get("scoring") != SCORING:
            _check(found, _TO_SCORE, where)
            if not found["answers"] or not all(
                isinstance(answer, str) for answer in found["answers"]
            ):
                raise UsageError(f"{where} lacks answers that are texts: run the evaluation again.")
        yield found


def _json(path: Path) -> Any:
    try:
        return _loads(_text(path))
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"'{path}' is damaged ({error}): remove it, and run the evaluation again."
        ) from error


def _loads(text: str) -> Any:
    return parse_json(text, nan=lambda name: None)  # what is not a number was not measured


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(
            f"'{path}' cannot be read ({reason}): fix that, or run the evaluation again."
        ) from error


def _check(values: Any, fields: Kinds, where: str) -> None:
    name = misfit(values, fields)
    if name is None:
        name = misfit(values, {name: kinds for name, kinds in _OPTIONAL.items() if name in values})
    if name is None and isinstance(values.get("bucket"), list):
        name = None if [type(end) for end in values["bucket"]] == [int, int] else "bucket"
    if name is None and isinstance(values.get("tags"), dict) and "depth" in values["tags"]:
        name = misfit(values["tags"], {"depth": _NUMBER})
    if name is not None:
        raise UsageError(
            f"{where} lacks '{name}', or holds something else there: run the evaluation again."
        )
