"""The gate: which way of reading answers held-out questions best within a budget of positions.

The default policy stays unless another one beats it beyond chance (see `gate.verdict`). All ways
read the same questions with the same model, greedily, in one run. Three are controls and never
chosen: no context, whose answers no passage stands behind; raw text at the very positions that
memory took; and another document's memory, which a compressor that works must beat.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from longreach.datasets.questions import Question
from longreach.engine.sampling import Sampling
from longreach.errors import ContextError, NothingFound, UsageError, out_of_memory
from longreach.evals.gate.rows import make_row, score_answers
from longreach.evals.gate.verdict import DEFAULT, verdict
from longreach.models.decoder import window_of
from longreach.reading.answer import Answer
from longreach.reading.policy import DEFAULT_BUDGET, Policy
from longreach.reading.reader import Reader
from longreach.reading.scorecard import Scorecard, ScorecardRow

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
    """Reads held-out questions in every way and chooses the best, or stays with the default.

    A question that names its document is read with that document; for others the retriever finds
    it, and one that no passage matches counts as answered with nothing. The choice is the way of
    the highest mean F1 whose prompts fit the budget in the mean and that beats the default policy
    question by question; of equal ones that of fewer positions. On a tie, and on few questions, the
    default stays. Full context is not chosen where some document of the corpus, asked about or not,
    does not fit the window.

    Args:
        reader: With the adapter that is to be judged, or none.
        questions: None of which was learned.
        budget: Positions of a prompt at most; None as in `Policy`.
        max_new_tokens: Of an answer.
        seed: Of the bootstrap intervals.
        batch_size: Questions answered together.
        say: Is told how far it is.

    Raises:
        UsageError: There are no questions.
        ContextError: A question does not fit the budget.
    """
    if not questions:
        raise UsageError("There are no questions to test on: give some with --evaluation.")
    most = budget or DEFAULT_BUDGET
    sampling = Sampling(max_new_tokens)
    policies = _policies(reader, None if most == DEFAULT_BUDGET else most, sampling)
    ask = _Asking(reader, questions, sampling, batch_size)
    answers = _ask_all(ask, policies, reader, say)
    rows = list[ScorecardRow]()
    for reading, given in answers.items():
        row = make_row(reading, policies.get(reading), questions, given, seed)
        if row is not None:
            rows.append(row)
    candidates = []
    for row in rows:
        if _may_be_chosen(row, most, reader, len(questions), answers[row.reading]):
            candidates.append(row)
    scores = {row.reading: score_answers(questions, answers[row.reading]) for row in candidates}
    found = verdict(candidates, scores, seed)
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
    """Returns the ways of reading that a user can ask for, by their names."""
    tokens = 0
    passages = 0
    for document in reader.corpus.documents():
        tokens += document.tokens
        passages += document.passages
    mean_tokens = max(1, tokens // max(1, passages))
    # Two more than the budget is thought to hold: passages are of different lengths.
    enough = (budget or DEFAULT_BUDGET) // mean_tokens + 2
    window = window_of(reader.model)
    # The answer takes its part of the window.
    whole = window and window - sampling.max_new_tokens
    raw = Policy.passages(enough, budget=budget, cut=True)
    found = {DEFAULT: Policy(budget=budget)}
    for policy in (
        Policy.none(budget=budget),
        Policy.compressed(budget=budget),
        raw,
        Policy.mixed(2, budget=budget),
        Policy.full(budget=whole),
    ):
        found[policy.name] = policy
    if reader.adapter:
        found[ADAPTER_OFF] = replace(raw, adapter=False)
    return found


def _ask_all(
    ask: "_Asking",
    policies: Mapping[str, Policy],
    reader: Reader,
    say: Callable[[str], None],
) -> dict[str, Sequence[Answer | None]]:
    """Returns the answers of every way of reading, and those of the controls."""
    answers = dict[str, Sequence[Answer | None]]()
    for reading, policy in policies.items():
        say(f"gate: {reading}")
        # A whole document may be longer than the window, and is then asked about by itself.
        if policy.raw == "document":
            answers[reading] = list(ask.where_it_fits(policy))
        else:
            answers[reading] = ask(policy)
    compressed = [answer for answer in answers["compressed"] if answer]
    # A question without a word of any passage retrieves nothing.
    unread = sum(not answer.passages for answer in compressed)
    if unread:
        say(
            f"gate: {unread} of {len(compressed)} questions share no word with any passage:"
            " answered with nothing."
        )
    say(f"gate: {SAME_POSITIONS}")
    answers[SAME_POSITIONS] = ask.within(policies["raw"], compressed)
    wrong = _find_others(reader, compressed)
    if wrong:
        say(f"gate: {WRONG_DOCUMENT}")
        answers[WRONG_DOCUMENT] = ask(policies["compressed"], wrong)
    return answers


class _Asking:
    """The same questions, asked in one way after the other."""

    def __init__(
        self, reader: Reader, questions: Sequence[Question], sampling: Sampling, batch_size: int
    ) -> None:
        self._reader = reader
        self._batch_size = batch_size
        self._sampling = sampling
        self._texts = list[str]()
        self._documents = list[str | None]()
        for question in questions:
            self._texts.append(question.question)
            self._documents.append(question.document)

    def __call__(
        self, policy: Policy | Sequence[Policy], documents: Sequence[str] | None = None
    ) -> list[Answer]:
        """Returns the answers, each about its own document or about those given.

        Args:
            policy: Of all, or one for each.
            documents: One for each; None for those that the questions name.
        """
        return self._reader.ask_many(
            self._texts,
            documents=documents or self._documents,
            policy=policy,
            sampling=self._sampling,
            batch_size=self._batch_size,
        )

    def where_it_fits(self, policy: Policy) -> Iterator[Answer | None]:
        """Yields those whose context fits the window and the memory; None for the others."""
        for text, document in zip(self._texts, self._documents, strict=True):
            try:
                yield self._reader.ask(
                    text, document=document, policy=policy, sampling=self._sampling
                )
            # No passage matched, and the question names no document.
            except NothingFound:
                yield Answer.unanswered(policy.name)
            except Exception as error:
                # A document may be too long for the window or for the machine: that is a finding.
                if not (isinstance(error, ContextError) or out_of_memory(error)):
                    raise
                yield None

    def within(self, policy: Policy, like: Sequence[Answer]) -> list[Answer]:
        """Returns answers each within the positions that another one took.

        Where the other read nothing, this one reads nothing either.
        """
        policies = []
        for other in like:
            policies.append(replace(policy, budget=other.usage.positions or policy.budget))
        return self(policies)


def _find_others(reader: Reader, answers: Sequence[Answer]) -> list[str]:
    """Returns for each answer a document that it was not read from; [] where there is only one."""
    names = [document.document for document in reader.corpus.documents() if document.passages]
    if len(names) < 2:
        return []
    found = list[str]()
    for answer in answers:
        if answer.passages:
            read = names.index(answer.passages[0].document)
            found.append(names[(read + 1) % len(names)])
        else:
            # No passage matched the question: any document is another one.
            found.append(names[0])
    return found


def _may_be_chosen(
    row: ScorecardRow, budget: int, reader: Reader, questions: int, answers: Sequence[Answer | None]
) -> bool:
    """Whether a way of reading can be the corpus's policy: no control, and able to read it all."""
    if row.policy is None or row.policy.nothing or row.questions < questions:
        return False
    if row.reading == DEFAULT:
        return True
    return row.positions <= budget and _reads_all(reader, row.policy, answers)


def _reads_all(reader: Reader, policy: Policy, answers: Sequence[Answer | None]) -> bool:
    """Whether a policy does for every document: the longest one may not fit as raw text."""
    if policy.raw != "document" or policy.budget is None:
        return True
    # Positions of a prompt that no document takes: the template and the question.
    beside = 0
    for answer in answers:
        if answer:
            beside = max(beside, answer.usage.positions - answer.usage.source_tokens)
    longest = 0
    for document in reader.corpus.documents():
        longest = max(longest, document.tokens)
    return beside + longest <= policy.budget
