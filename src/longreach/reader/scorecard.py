"""How well each way of reading answers questions about a corpus, as measured; and which one the reader takes."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from longreach.corpus.schema import SCORECARD
from longreach.corpus.store import Corpus
from longreach.errors import CorpusDamaged
from longreach.reader.policy import Policy

_FORMAT = 1


@dataclass(frozen=True)
class Row:
    """One way of reading.

    Attributes:
        reading: what it is called.
        policy: what asks for it; None for a control that no policy asks for.
        questions: how many it could read.
        f1: mean token F1, 0 to 100; `f1_low` to `f1_high` is its 95% bootstrap interval.
        exact_match: share of answers that are a reference, 0 to 100.
        rouge_l: mean ROUGE-L, 0 to 100.
        positions: mean positions of the prompts.
    """

    reading: str
    policy: Policy | None
    questions: int
    f1: float
    f1_low: float
    f1_high: float
    exact_match: float
    rouge_l: float
    positions: float


@dataclass(frozen=True)
class Scorecard:
    """What the gate found.

    Attributes:
        rows: the ways of reading.
        chosen: the best of those that fit the budget.
        questions: how many were asked.
        budget: positions of a prompt at most.
        adapter: the name of the adapter that was on, None without one.
        fingerprint: of the compressor.
        model_fingerprint: of the model.
        state: of the corpus' documents.
        date: when, UTC (ISO).
    """

    rows: tuple[Row, ...]
    chosen: str
    questions: int
    budget: int
    adapter: str | None
    fingerprint: str
    model_fingerprint: str
    state: str
    date: str

    @property
    def best(self) -> Row:
        """The row that was chosen."""
        return next(row for row in self.rows if row.reading == self.chosen)

    def row_of(self, policy: Policy) -> Row | None:
        """The row that measured this very policy, if any did."""
        return next((row for row in self.rows if row.policy == policy), None)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values for JSON."""
        return {"format": _FORMAT, **asdict(self)}

    def save(self, corpus: Corpus) -> None:
        """Writes it into the corpus, whole or not at all."""
        with corpus.changing("study") as folder:
            draft = folder / f"{SCORECARD}.tmp"
            draft.write_text(json.dumps(self.to_dict(), indent=1) + "\n")
            draft.replace(folder / SCORECARD)

    @classmethod
    def load(cls, folder: Path) -> "Scorecard | None":
        """The scorecard in a corpus' folder; None where there is none, or one of another release.

        Raises:
            CorpusDamaged: it is not what was written.
        """
        try:
            values = json.loads((folder / SCORECARD).read_bytes())
            if values.pop("format") != _FORMAT:
                return None
            made = (Policy(**row["policy"]) if row["policy"] else None for row in values["rows"])
            rows = tuple(Row(**(row | {"policy": policy})) for row, policy in zip(values["rows"], made, strict=True))
            card = cls(**(values | {"rows": rows}))
            return card if card.best else None
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
            raise CorpusDamaged(
                f"{folder / SCORECARD} is damaged: measure again with `longreach study {folder.name} --gate-only`."
            ) from error


def scorecard_of(corpus: Corpus, adapter: str | None) -> Scorecard | None:
    """The scorecard of a corpus if it was measured with this adapter, None for none, on."""
    card = Scorecard.load(corpus.path)
    return card if card and card.adapter == adapter else None
