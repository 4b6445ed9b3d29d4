"""The gate: which way of reading answers held-out questions best within a budget of positions.

The default policy stays unless another one beats it beyond chance (see `evals.verdict`). All ways
read the same questions with the same model, greedily, in one run. Three are controls and never
chosen: no context, whose answers no passage stands behind; raw text at the very positions that
vectors took; and another document's vectors, which a compressor that works must beat.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from longreach.datasets.questions import Question
from longreach.engine.sampling import Sampling
from longreach.errors import ContextError, NothingFound, UsageError, out_of_memory
from longreach.evals.gate.verdict import DEFAULT, verdict
from longreach.evals.scores.intervals import interval
from longreach.evals.scores.overlap import exact_match, rouge_l, token_f1
from longreach.models.decoder import window_of
from longreach.reading.answer import Answer
from longreach.reading.policy import DEFAULT_BUDGET, Policy
from longreach.reading.reader import Reader
from longreach.reading.scorecard import Row, Scorecard

SAME_POSITIONS = "raw, same positions"
WRONG_DOCUMENT = "wrong document"
ADAPTER_OFF = "raw, adapter off"


def gate(
    reader: Reader,
    questions: Sequence[Question],
    budget: int | None = None,
    *,
    max_new_tokens: int = Sampling.max_new_tokens,
    seed: int = 0,
    batch_size: int = 8,
    say: Callable[[str], None] = lambda text: None,
) -> Scorecard:
    """Reads held-out questions in every way and chooses the best that fits the budget, or stays
    with the default.

    A question that names its document is read with that document; for others the retriever finds
    it, and one that no passage matches counts as answered with nothing. The choice is the way of
    the highest mean F1 whose prompts fit the budget in the mean and that beats the default policy
    question by question; of equal ones that of fewer positions. On a tie, and on few questions, the
    default stays. Full context is not chosen where some document of the corpus, asked about or not,
    does not fit the window.

    Args:
        reader: with the adapter that is to be judged, or none.
        questions: none of which was learned.
        budget: positions of a prompt at most; None as in `Policy`.
        max_new_tokens: of an answer.
        seed: of the bootstrap intervals.
        batch_size: questions answered together.
        say: is told how far it is.

    Raises:
        UsageError: there are no questions.
        ContextError: a question does not fit the budget.
    """
    if not questions:
        raise UsageError("There are no questions to test on: give some with --evaluation.")
    most, answers = budget or DEFAULT_BUDGET, dict[str, list[Answer | None]]()
    sampling = Sampling(max_new_tokens)
    policies = _policies(reader, None if most == DEFAULT_BUDGET else most, sampling)
    ask = _Asking(reader, questions, sampling, batch_size)
    for reading, policy in policies.items():
        say(f"gate: {reading}")
        answers[reading] = (
            list(ask(policy)) if policy.raw != "document" else list(ask.where_it_fits(policy))
        )
    unread = sum(1 for answer in answers["compressed"] if answer and not answer.passages)
    if unread:
        say(
            f"gate: {unread} of {len(questions)} questions share no word with any passage: answered"
            " with nothing."
        )
    say(f"gate: {SAME_POSITIONS}")
    answers[SAME_POSITIONS] = list(
        ask.within(policies["raw"], [one for one in answers["compressed"] if one])
    )
    if wrong := _others(reader, answers["compressed"]):
        say(f"gate: {WRONG_DOCUMENT}")
        answers[WRONG_DOCUMENT] = list(ask(policies["compressed"], wrong))
    made = (
        _row(reading, policies.get(reading), questions, answers[reading], seed)
        for reading in answers
    )
    rows = [row for row in made if row]
    measured = [
        row
        for row in rows
        if row.policy and not row.policy.nothing and row.questions == len(questions)
    ]
    fits = [
        row
        for row in measured
        if row.reading == DEFAULT
        or (row.positions <= most and _reads_all(reader, row, answers[row.reading]))
    ]
    scores = {row.reading: _scores(questions, answers[row.reading]) for row in fits}
    found = verdict(fits, scores, seed)
    say(f"gate: {found.why}")
    settings = reader.corpus.settings
    return Scorecard(
        rows=tuple(rows),
        chosen=found.chosen,
        why=found.why,
        questions=len(questions),
        budget=most,
        adapter=reader.adapter,
        fingerprint=settings.fingerprint,
        model_fingerprint=settings.model_fingerprint,
        state=reader.corpus.state(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _policies(reader: Reader, budget: int | None, sampling: Sampling) -> dict[str, Policy]:
    """The ways of reading that a user can ask for."""
    documents = reader.corpus.documents()
    mean_tokens = sum(document.tokens for document in documents) // max(
        1, sum(d.passages for d in documents)
    )
    passages = (budget or DEFAULT_BUDGET) // max(1, mean_tokens) + 2  # enough to fill the budget
    window = window_of(reader.model)
    raw = Policy(k=passages, raw=passages, compressed="none", budget=budget, cut=True)
    found = [
        Policy(raw=0, compressed="none", budget=budget),
        Policy(raw=0, compressed="document", budget=budget),
        raw,
        Policy(raw=2, compressed="document", budget=budget),
        Policy(
            raw="document", compressed="none", budget=window and window - sampling.max_new_tokens
        ),
    ]
    off = {ADAPTER_OFF: replace(raw, adapter=False)} if reader.adapter else {}
    return {DEFAULT: Policy(budget=budget)} | {policy.name: policy for policy in found} | off


class _Asking:
    """The same questions, asked in one way after the other."""

    def __init__(
        self, reader: Reader, questions: Sequence[Question], sampling: Sampling, batch_size: int
    ) -> None:
        self._reader, self._batch_size, self._sampling = reader, batch_size, sampling
        self._texts = [question.question for question in questions]
        self._documents = [question.document for question in questions]

    def __call__(
        self, policy: Policy | Sequence[Policy], documents: Sequence[str] | None = None
    ) -> list[Answer]:
        """Each with its own document, or with those given; by one policy, or each by its own."""
        return self._reader.ask_many(
            self._texts,
            documents=documents or self._documents,
            policy=policy,
            sampling=self._sampling,
            batch_size=self._batch_size,
        )

    def where_it_fits(self, policy: Policy) -> Iterator[Answer | None]:
        """Those whose context fits the window and the memory; None for the others."""
        for text, document in zip(self._texts, self._documents, strict=True):
            try:
                yield self._reader.ask(
                    text, document=document, policy=policy, sampling=self._sampling
                )
            except NothingFound:
                yield Answer.unanswered(policy.name)
            except Exception as error:
                if not (isinstance(error, ContextError) or out_of_memory(error)):
                    raise
                yield None

    def within(self, policy: Policy, like: Sequence[Answer]) -> list[Answer]:
        """Each within the positions that another answer took; where that read nothing, neither will
        this one."""
        return self(
            [replace(policy, budget=other.usage.positions or policy.budget) for other in like]
        )


def _others(reader: Reader, answers: Sequence[Answer | None]) -> list[str]:
    """For each answer a document that it was not read from; empty where the corpus holds one
    only."""
    names = [document.document for document in reader.corpus.documents() if document.passages]
    if len(names) < 2:
        return []
    found = list[str]()
    for answer in answers:
        if answer and answer.passages:
            found.append(names[(names.index(answer.passages[0].document) + 1) % len(names)])
        elif answer:  # no passage matched the question: any other document
            found.append(names[0])
    return found


def _reads_all(reader: Reader, row: Row, answers: Sequence[Answer | None]) -> bool:
    """Whether a way of reading does for every document of the corpus: the longest one may not fit
    as raw text."""
    if not row.policy or row.policy.raw != "document" or row.policy.budget is None:
        return True
    beside = max(
        answer.usage.positions - answer.usage.source_tokens for answer in answers if answer
    )
    return (
        beside + max(document.tokens for document in reader.corpus.documents()) <= row.policy.budget
    )


def _scores(questions: Sequence[Question], answers: Sequence[Answer | None]) -> list[float]:
    """F1 of each answer that was given, 0 to 100."""
    found = []
    for question, answer in zip(questions, answers, strict=True):
        if answer:
            found.append(100 * token_f1(answer.text, question.answers))
    return found


def _row(
    reading: str,
    policy: Policy | None,
    questions: Sequence[Question],
    answers: Sequence[Answer | None],
    seed: int,
) -> Row | None:
    read = [
        (question.answers, answer)
        for question, answer in zip(questions, answers, strict=True)
        if answer
    ]
    if not read:
        return None
    f1, low, high = interval(_scores(questions, answers), seed=seed)
    mean = {
        "exact_match": (
            100 * sum(exact_match(answer.text, right) for right, answer in read) / len(read)
        ),
        "rouge_l": 100 * sum(rouge_l(answer.text, right) for right, answer in read) / len(read),
        "positions": sum(answer.usage.positions for _, answer in read) / len(read),
    }
    return Row(reading, policy, len(read), f1, low, high, **mean)
