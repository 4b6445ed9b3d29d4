"""How well each way of reading answers questions about a corpus, as measured."""

from dataclasses import asdict, dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any

from longreach.corpus.artefacts import Artefacts
from longreach.corpus.schema import SCORECARD
from longreach.jsontext import JsonObject, Kinds, misfit, read_field
from longreach.reading.policy import Policy

if TYPE_CHECKING:
    from longreach.corpus.store import Corpus

_FORMAT = 2


@dataclass(frozen=True)
class ScorecardRow:
    """One way of reading.

    Attributes:
        reading: What it is called.
        policy: What asks for it; None for a control that no policy asks for.
        questions: The number of those that it could read.
        f1: Mean token F1, 0 to 100; `f1_low` to `f1_high` is its 95% bootstrap interval, None where
            there were too few questions for one.
        exact_match: Share of answers that are a reference, 0 to 100.
        rouge_l: Mean ROUGE-L, 0 to 100.
        positions: Mean positions of the prompts.
    """

    reading: str
    policy: Policy | None
    questions: int
    f1: float
    f1_low: float | None
    f1_high: float | None
    exact_match: float
    rouge_l: float
    positions: float


@dataclass(frozen=True)
class Scorecard:
    """What the gate found.

    Attributes:
        rows: The ways of reading.
        chosen: What is read: the default, or what beats it of those that fit the budget.
        why: Why it was chosen, in a sentence.
        questions: The number that was asked.
        budget: Positions of a prompt at most.
        adapter: Name of the adapter that was on; None without one.
        fingerprint: Of the compressor.
        model_fingerprint: Of the model.
        state: Of the corpus' documents.
        date: When it was measured, UTC (ISO 8601).
    """

    rows: tuple[ScorecardRow, ...]
    chosen: str
    why: str
    questions: int
    budget: int
    adapter: str | None
    fingerprint: str
    model_fingerprint: str
    state: str
    date: str

    @property
    def best(self) -> ScorecardRow:
        """The row that was chosen."""
        return next(row for row in self.rows if row.reading == self.chosen)

    def row_of(self, policy: Policy) -> ScorecardRow | None:
        """Returns the row that measured this very policy, if any did."""
        return next((row for row in self.rows if row.policy == policy), None)

    def to_dict(self) -> JsonObject:
        """Returns the same as plain values for JSON."""
        return {"format": _FORMAT, **asdict(self)}

    def save(self, corpus: "Corpus") -> None:
        """Writes it into the corpus, whole or not at all."""
        with corpus.changing("study") as artefacts:
            artefacts.put(SCORECARD, self.to_dict())

    @classmethod
    def load(cls, artefacts: Artefacts) -> "Scorecard | None":
        """Returns the scorecard of a corpus; None if there is none, or one of another release.

        Raises:
            CorpusDamaged: It is not what was written.
        """
        values = artefacts.load_scorecard()
        if values is None:
            return None
        damaged = artefacts.explain_damage()
        try:
            if values.pop("format") != _FORMAT:
                return None
            rows = tuple(map(_read_row, read_field(values, "rows", list)))
            # A field that is missing or unknown raises a TypeError here.
            fields: dict[str, Any] = values | {"rows": rows}
            card = cls(**fields)
            if misfit(values, _FIELDS):
                raise damaged
            # Where no row has the name that was chosen, `best` raises StopIteration.
            return card if card.best else None
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise damaged from error


_NUMBERS = dict.fromkeys(("f1", "exact_match", "rouge_l", "positions"), (int, float))
_ENDS = dict.fromkeys(("f1_low", "f1_high"), (int, float, NoneType))
_ROW: Kinds = {
    "reading": (str,),
    "policy": (dict, NoneType),
    "questions": (int,),
    **_NUMBERS,
    **_ENDS,
}
_POLICY: Kinds = {
    "k": (int,),
    "raw": (int, str),
    "compressed": (str,),
    "budget": (int, NoneType),
    "retriever": (str,),
    "cut": (bool,),
    "adapter": (bool,),
}
_TEXTS = ("chosen", "why", "fingerprint", "model_fingerprint", "state", "date")
_FIELDS: Kinds = dict.fromkeys(_TEXTS, (str,)) | {
    "questions": (int,),
    "budget": (int,),
    "adapter": (str, NoneType),
}


def _read_row(values: JsonObject) -> ScorecardRow:
    """Returns a row; raises ValueError or TypeError where plain values are not those of one."""
    lacking = misfit(values, _ROW)
    if lacking:
        raise ValueError(f"a row lacks '{lacking}'")
    policy = None
    if values["policy"] is not None:
        wanted = read_field(values, "policy", dict)
        # A field that an earlier release did not write has its default.
        kinds = {name: kinds for name, kinds in _POLICY.items() if name in wanted}
        lacking = misfit(wanted, kinds)
        if lacking:
            raise ValueError(f"a policy lacks '{lacking}'")
        policy = Policy(**wanted)
    fields: dict[str, Any] = values | {"policy": policy}
    return ScorecardRow(**fields)


def scorecard_of(corpus: "Corpus", adapter: str | None) -> Scorecard | None:
    """Returns the scorecard of a corpus if it was measured with this adapter on; None for none."""
    card = Scorecard.load(corpus.artefacts)
    # What was measured with another adapter says nothing about this one.
    if card is None or card.adapter != adapter:
        return None
    return card
