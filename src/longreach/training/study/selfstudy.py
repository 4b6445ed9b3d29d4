"""Questions that a model asks about a corpus' own passages, and answers with the passage in view.

Paper: Eyuboglu et al. 2025, Cartridges (arXiv 2506.06266): five kinds of questions cover a text
better than one.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from longreach.datasets.questions import Question
from longreach.engine.generate import write_all
from longreach.engine.prompt import PromptBuilder
from longreach.engine.request import stop_tokens
from longreach.engine.sampling import REQUEST, Sampling
from longreach.errors import TrainingError, UsageError
from longreach.jsontext import NotJson, parse_object, read_field
from longreach.models.decoder import adapters_off, window_of
from longreach.models.sharing import decode
from longreach.plain import words
from longreach.training.study.asking import KINDS, check_per_passage
from longreach.training.study.junk import REPEATED, fault_of_answer, fault_of_question
from longreach.wording import counted

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longreach.corpus.reading import CorpusReading
    from longreach.corpus.schema import PassageInfo

_ALONE = (
    " Name what it is about. Write only the question, in one line that ends with a question mark."
)
_MARKS = "?\uff1f\u061f\u055e\u1367"  # Latin, full width, Arabic, Armenian, Ethiopic
_ASKED = re.compile(
    r"^[ \t>*#\d.]*(?:[\w ]*question[\w ]*:)?["
    rf" \t*]*[\"\u201c]?([^\n{_MARKS}]*\w[^\n{_MARKS}]*[{_MARKS}])",
    re.I | re.M,
)
# In tokens.
_LONGEST_QUESTION = 64
_LONGEST_ANSWER = 96

Job = tuple[Any, ...]
"""What a text was written for: author, seed, revision, number of the passage, kind of question."""


class AuthorRequest(NamedTuple):
    """What an author is asked to write.

    Attributes:
        text: What it is about.
        request: What is asked for.
        temperature: Of the sampling.
        max_tokens: Tokens at most.
        seed: Of the sampling.
    """

    text: str
    request: str
    temperature: float
    max_tokens: int
    seed: int


class MadeQuestions(NamedTuple):
    """The questions that were made, and how many were dropped for which fault (see `junk`)."""

    questions: list[Question]
    dropped: dict[str, int]


class Author(Protocol):
    """Writes what is asked for; `name` tells authors apart."""

    name: str

    def write(self, requests: Sequence[AuthorRequest]) -> Iterator[tuple[int, str]]:
        """Yields the number of each request and what was written, as it comes.

        An error comes after what was done.
        """
        ...


class OwnModel:
    """The corpus' own model as author, without any adapter.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        name: What tells it apart, such as its fingerprint.
        batch_size: Requests written together.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        *,
        batch_size: int = 8,
    ) -> None:
        self.name = name
        self._model = model
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._builder = PromptBuilder(model, tokenizer)
        self._stops = stop_tokens(model, tokenizer)

    def write(self, requests: Sequence[AuthorRequest]) -> Iterator[tuple[int, str]]:
        """See `Author`."""
        for first in range(0, len(requests), self._batch_size):
            batch = requests[first : first + self._batch_size]
            longest = max(request.max_tokens for request in batch)
            # All requests of one call share temperature and seed, so the first one speaks for its
            # batch.
            sampling = Sampling(longest, batch[0].temperature, top_p=0.95, seed=batch[0].seed)
            with adapters_off(self._model):
                prompts = [self._prompt(request) for request in batch]
            written = write_all(self._model, prompts, self._stops, sampling)
            for row, own in enumerate(written):
                yield first + row, decode(self._tokenizer, own.tokens, skip_special_tokens=True)

    def _prompt(self, request: AuthorRequest) -> Tensor:
        text = self._builder.raw(request.text)
        whole = self._builder.build([], [text], "", request=request.request).embeds
        window = window_of(self._model)
        over = len(whole) + request.max_tokens - (window or sys.maxsize)
        if over <= 0:
            return whole
        # Of a text that leaves too little of the window for the answer the end is not read.
        return self._builder.build([], [text[:-over]], "", request=request.request).embeds


def make_questions(
    corpus: CorpusReading,
    author: Author,
    path: Path,
    *,
    per_passage: int = 1,
    seed: int = 0,
    say: Callable[[str], None],
) -> MadeQuestions:
    """Has questions about every passage written and answered; the kinds take turns.

    What nobody should learn from is dropped: what is no question, copies of the request or of the
    passage, what was asked before about the document, and answers that are not in the passage. All
    that is written goes to `path` at once, one JSON line a question and one an answer: a run that
    was stopped, or whose author failed, resumes without asking for anything twice.

    Args:
        corpus: What to ask about.
        author: Who asks and answers.
        path: The file of what was written before and now.
        per_passage: Questions about each passage, 1 to 5.
        seed: Of what is drawn.
        say: Is told how far it is.

    Raises:
        UsageError: `per_passage` is out of range, or the corpus holds no passages.
        TrainingError: The author failed, or wrote nothing that can be used.
    """
    check_per_passage(per_passage)
    passages = corpus.passages()
    if not passages:
        raise UsageError(f"Corpus '{corpus.name}' holds no documents: add some with ingest first.")
    jobs: dict[Job, PassageInfo] = {}
    for number, passage in enumerate(passages):
        # Consecutive numbers: the kinds of one passage differ, and all kinds come about equally
        # often.
        for kind in _take_turns(number * per_passage, per_passage):
            jobs[(author.name, seed, passage.revision, passage.index, kind)] = passage
    asked: dict[Job, AuthorRequest] = {}
    for job, passage in jobs.items():
        request = KINDS[job[-1]] + _ALONE
        asked[job] = AuthorRequest(passage.text, request, 0.8, _LONGEST_QUESTION, seed)
    dropped: Counter[str] = Counter()
    with _Notes(path) as notes:
        notes.fill("question", asked, author, say)
        questions = _pick_questions(jobs, asked, notes, dropped)
        answered: dict[Job, AuthorRequest] = {}
        for job, question in questions.items():
            # Temperature 0, because questions should vary and answers should be the likeliest ones.
            request = REQUEST + question
            answered[job] = AuthorRequest(jobs[job].text, request, 0.0, _LONGEST_ANSWER, seed)
        notes.fill("answer", answered, author, say)
        made: list[Question] = []
        for job, question in questions.items():
            passage = jobs[job]
            answer = notes.known[job]["answer"].strip()
            fault = fault_of_answer(answer, question, passage.text)
            if fault is None:
                made.append(Question(passage.document, question, (answer,), passage.index))
            else:
                dropped[fault] += 1
    why = _explain_dropped(dropped, len(jobs))
    if dropped:
        say(f"study: {why}")
    if not made:
        raise TrainingError(
            f"The model wrote no question that can be used ({why}): give your own with --questions,"
            " or a larger model with --teacher."
        )
    return MadeQuestions(made, dict(dropped))


def _take_turns(first: int, count: int) -> Iterator[str]:
    """Yields a number of kinds of questions, which take turns from the `first` on."""
    kinds = list(KINDS)
    for turn in range(first, first + count):
        yield kinds[turn % len(kinds)]


def _pick_questions(
    jobs: Mapping[Job, PassageInfo],
    asked: Mapping[Job, AuthorRequest],
    notes: _Notes,
    dropped: Counter[str],
) -> dict[Job, str]:
    """Returns the questions that are worth an answer.

    Args:
        jobs: The passage of each question.
        asked: What the author was told.
        notes: What it wrote.
        dropped: Gets the faults of the others.
    """
    picked: dict[Job, str] = {}
    before: set[tuple[str, ...]] = set()
    for job, passage in jobs.items():
        question = find_question(notes.known[job]["question"])
        fault = fault_of_question(question, asked[job].request, passage.text)
        same = (passage.document, *words(question))
        if fault is None and same in before:
            fault = REPEATED
        before.add(same)
        if fault is None:
            picked[job] = question
        else:
            dropped[fault] += 1
    return picked


def _explain_dropped(dropped: Counter[str], count: int) -> str:
    """Returns how many questions were dropped, and why."""
    why = ", ".join(f"{number:,} {fault}" for fault, number in dropped.most_common())
    return f"{dropped.total():,} of {counted(count, 'question')} dropped: {why}"


def find_question(written: str) -> str:
    """Returns the question in what was written, without label and quotes.

    Empty where there is none: small models write all kinds of things.
    """
    found = _ASKED.search(written)
    return found.group(1).strip() if found else ""


class _Notes:
    """What was written so far, by job: lines of a file, each whole or not there."""

    def __init__(self, path: Path) -> None:
        self.known: dict[Job, dict[str, str]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.read_bytes() if path.exists() else b""
        # After the last whole line a killed process wrote half a one.
        whole = written.rfind(b"\n") + 1
        for line in written[:whole].splitlines():
            try:
                note = parse_object(line)
                job = tuple(read_field(note, "job", list))
                del note["job"]
                # A list inside of it, as only a damaged line holds, has to fail here and not
                # further down.
                hash(job)
            except (NotJson, KeyError, TypeError):
                # It was damaged since: this is asked for again, and the lines after it are good.
                continue
            texts = {what: text for what, text in note.items() if isinstance(text, str)}
            self.known.setdefault(job, {}).update(texts)
        self._file = path.open("ab")
        # The torn end goes, so that the next line begins at the start of one.
        self._file.truncate(whole)

    def __enter__(self) -> _Notes:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fill(
        self,
        what: str,
        requests: dict[Job, AuthorRequest],
        author: Author,
        say: Callable[[str], None],
    ) -> None:
        """Has the author write what is not there yet."""
        missing = [job for job in requests if what not in self.known.get(job, {})]
        done = len(requests) - len(missing)
        if missing:
            # The first of them may take a while.
            say(f"{what} {done}/{len(requests)}")
        for number, text in author.write([requests[job] for job in missing]):
            job = missing[number]
            # Half characters are no text.
            valid = text.encode("utf-8", "replace").decode()
            self.known.setdefault(job, {})[what] = valid
            self._file.write(json.dumps({"job": job, what: valid}).encode() + b"\n")
            self._file.flush()
            # A text that took minutes or money to write has to survive a crash of the machine.
            os.fsync(self._file.fileno())
            done += 1
            if done % 8 == 0 or done == len(requests):
                say(f"{what} {done}/{len(requests)}")
