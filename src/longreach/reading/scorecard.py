"""How well each way of reading answers questions about a corpus, as measured; and which one the
reader takes."""

from dataclasses import asdict, dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any

from longreach.corpus.artefacts import Artefacts
from longreach.corpus.schema import SCORECARD
from longreach.jsontext import Kinds, misfit
from longreach.reading.policy import Policy

if TYPE_CHECKING:
    from longreach.corpus.store import Corpus

_FORMAT = 2


@dataclass(frozen=True)
class Row:
    """One way of reading.

    Attributes:
        reading: what it is called.
        policy: what asks for it; None for a control that no policy asks for.
        questions: how many it could read.
        f1: mean token F1, 0 to 100; `f1_low` to `f1_high` is its 95% bootstrap interval, None where
            there were too few questions for one.
        exact_match: share of answers that are a reference, 0 to 100.
        rouge_l: mean ROUGE-L, 0 to 100.
        positions: mean positions of the prompts.
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
        rows: the ways of reading.
        chosen: what is read: the default, or what beats it of those that fit the budget.
        why: it was chosen, in a sentence.
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
    why: str
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

    def save(self, corpus: "Corpus") -> None:
        """Writes it into the corpus, whole or not at all."""
        with corpus.changing("study") as artefacts:
            artefacts.put(SCORECARD, self.to_dict())

    @classmethod
    def load(cls, artefacts: Artefacts) -> "Scorecard | None":
        """Returns the scorecard of a corpus; None if there is none, or one of another release.

        Raises:
            CorpusDamaged: it is not what was written.
        """
        values = artefacts.load_scorecard()
        if values is None:
            return None
        damaged = artefacts.explain_damage()
        try:
            if values.pop("format") != _FORMAT:
                return None
            rows = tuple(_row(row) for row in values["rows"])
            card = cls(**(values | {"rows": rows}))
            if misfit(values, _FIELDS):
                raise damaged
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


def _row(values: Any) -> Row:
    """A row out of plain values; ValueError or TypeError where they are not those of one."""
    if misfit(values, _ROW):
        raise ValueError(f"a row lacks '{misfit(values, _ROW)}'")
    policy = None
    if values["policy"] is not None:
        kinds = {name: kinds for name, kinds in _POLICY.items() if name in values["policy"]}
        if misfit(values["policy"], kinds):
            raise ValueError(f"a policy lacks '{misfit(values['policy'], kinds)}'")
        policy = Policy(**values["policy"])
    return Row(**(values | {"policy": policy}))


def scorecard_of(corpus: "Corpus", adapter: str | None) -> Scorecard | None:
    """The scorecard of a corpus if it was measured with this adapter, None for none, on."""
    card = Scorecard.load(corpus.artefacts)
    return card if card and card.adapter == adapter else None
