"""Questions about a corpus' own passages, where there are none: a model asks, and answers, with the
passage in view.

Paper: Eyuboglu et al. 2025, Cartridges (arXiv 2506.06266): five kinds of questions cover a text
better than one.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from longreach.datasets.questions import Question
from longreach.engine.generate import write_all
from longreach.engine.prompt import PromptBuilder
from longreach.engine.request import stop_tokens
from longreach.engine.sampling import REQUEST, Sampling
from longreach.errors import TrainingError, UsageError
from longreach.jsontext import NotJson, parse_object
from longreach.models.decoder import adapters_off, window_of
from longreach.models.sharing import decode
from longreach.plain import words
from longreach.training.study.asking import KINDS, check_per_passage
from longreach.training.study.junk import REPEATED, fault_of_answer, fault_of_question
from longreach.wording import counted

if TYPE_CHECKING:
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
_LONGEST_QUESTION, _LONGEST_ANSWER = 64, 96  # tokens


class Request(NamedTuple):
    """What an author is asked to write: about which text, at what temperature, in how many tokens
    at most."""

    text: str
    request: str
    temperature: float
    max_tokens: int
    seed: int


class Made(NamedTuple):
    """The questions that were made, and how many were dropped for which fault (see `junk`)."""

    questions: list[Question]
    dropped: dict[str, int]


class Author(Protocol):
    """Writes what is asked for; `name` tells authors apart."""

    name: str

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """Yields the number of each request and what was written, as it comes; an error comes after
        what was done."""
        ...


class OwnModel:
    """The corpus' own model as author, without any adapter.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        name: what tells it apart, such as its fingerprint.
        batch_size: requests written together.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, *, batch_size: int = 8) -> None:
        self.name = name
        self._model, self._tokenizer, self._batch_size = model, tokenizer, batch_size
        self._builder, self._stops = PromptBuilder(model, tokenizer), stop_tokens(model, tokenizer)

    def write(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """See `Author`."""
        for first in range(0, len(requests), self._batch_size):
            batch = requests[first : first + self._batch_size]
            longest = max(request.max_tokens for request in batch)
            sampling = Sampling(longest, batch[0].temperature, top_p=0.95, seed=batch[0].seed)
            with adapters_off(self._model):
                prompts = [self._prompt(request) for request in batch]
            written = write_all(self._model, prompts, self._stops, sampling)
            for row, own in enumerate(written):
                yield first + row, decode(self._tokenizer, own.tokens, skip_special_tokens=True)

    def _prompt(self, request: Request) -> Any:
        text = self._builder.raw(request.text)
        whole = self._builder.build([], [text], "", request=request.request).embeds
        over = (
            len(whole)
            + request.max_tokens
            - (window_of(self._model) or len(whole) + request.max_tokens)
        )
        if over <= 0:
            return whole
        return self._builder.build([], [text[:-over]], "", request=request.request).embeds


def make_questions(
    corpus: CorpusReading,
    author: Author,
    path: Path,
    *,
    per_passage: int = 1,
    seed: int = 0,
    say: Callable[[str], None],
) -> Made:
    """Asks about every passage, and has the questions answered; the kinds take turns over the
    passages.

    What nobody should learn from is dropped: what is no question, copies of the request or of the
    passage, what was asked before about the document, and answers that are not in the passage. All
    that is written goes to `path` at once, one JSON line a question and one an answer: a run that
    was stopped, or whose author failed, goes on without asking for anything twice.

    Args:
        corpus: what to ask about.
        author: who asks and answers.
        path: the file of what was written before and now.
        per_passage: questions about each passage, 1 to 5.
        seed: of what is drawn.
        say: is told how far it is.

    Raises:
        UsageError: `per_passage` is out of range, or the corpus holds no passages.
        TrainingError: the author failed, or wrote nothing that can be used.
    """
    check_per_passage(per_passage)
    passages = corpus.passages()
    if not passages:
        raise UsageError(f"Corpus '{corpus.name}' holds no documents: add some with ingest first.")
    names = list(KINDS)
    jobs: dict[tuple[Any, ...], PassageInfo] = {}
    for number, passage in enumerate(passages):
        for turn in range(per_passage):
            kind = names[(number * per_passage + turn) % len(names)]
            jobs[author.name, seed, passage.revision, passage.index, kind] = passage
    with _Notes(path) as notes:
        asked = {
            job: Request(passage.text, KINDS[job[-1]] + _ALONE, 0.8, _LONGEST_QUESTION, seed)
            for job, passage in jobs.items()
        }
        notes.fill("question", asked, author, say)
        dropped: Counter[str] = Counter()
        answered = dict[tuple[Any, ...], Request]()
        before = set[tuple[str, ...]]()
        for job, passage in jobs.items():
            question = _question(notes.known[job]["question"])
            fault = fault_of_question(question, asked[job].request, passage.text)
            same = (passage.document, *words(question))
            if fault is None and same in before:
                fault = REPEATED
            before.add(same)
            if fault is None:
                answered[job] = Request(
                    passage.text, REQUEST + question, 0.0, _LONGEST_ANSWER, seed
                )
            else:
                dropped[fault] += 1
        notes.fill("answer", answered, author, say)
        made = list[Question]()
        for job in answered:
            question, answer = (
                _question(notes.known[job]["question"]),
                notes.known[job]["answer"].strip(),
            )
            fault = fault_of_answer(answer, question, jobs[job].text)
            if fault is None:
                made.append(Question(jobs[job].document, question, (answer,), jobs[job].index))
            else:
                dropped[fault] += 1
    if dropped:
        say(f"study: {_said(dropped, len(jobs))}")
    if not made:
        raise TrainingError(
            f"The model wrote no question that can be used ({_said(dropped, len(jobs))}): give your"
            " own with --questions, or a larger model with --teacher."
        )
    return Made(made, dict(dropped))


def _said(dropped: Counter[str], count: int) -> str:
    """How many questions were dropped, and why."""
    why = ", ".join(f"{number:,} {fault}" for fault, number in dropped.most_common())
    return f"{dropped.total():,} of {counted(count, 'question')} dropped: {why}"


def _question(written: str) -> str:
    """The question in what was written, without label and quotes; empty where there is none, as
    small models do."""
    found = _ASKED.search(written)
    return found.group(1).strip() if found else ""


class _Notes:
    """What was written so far, by job: lines of a file, each whole or not there."""

    def __init__(self, path: Path) -> None:
        self.known: dict[tuple[Any, ...], dict[str, str]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.read_bytes() if path.exists() else b""
        whole = written.rfind(b"\n") + 1  # after it a killed process wrote half a line
        for line in written[:whole].splitlines():
            try:
                note = parse_object(line)
                job = tuple(note.pop("job"))
                hash(job)
            except (NotJson, KeyError, TypeError):
                continue  # damaged since: asked for again, and the lines after it are good
            texts = {what: text for what, text in note.items() if isinstance(text, str)}
            self.known.setdefault(job, {}).update(texts)
        self._file = path.open("ab")
        self._file.truncate(whole)

    def __enter__(self) -> _Notes:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fill(
        self,
        what: str,
        requests: dict[tuple[Any, ...], Request],
        author: Author,
        say: Callable[[str], None],
    ) -> None:
        """Has written what is not there yet."""
        missing = [job for job in requests if what not in self.known.get(job, {})]
        done = len(requests) - len(missing)
        if missing:  # the first of them may take a while
            say(f"{what} {done}/{len(requests)}")
        for number, text in author.write([requests[job] for job in missing]):
            # Half characters are no text.
            job, text = missing[number], text.encode("utf-8", "replace").decode()
            self.known.setdefault(job, {})[what] = text
            self._file.write(json.dumps({"job": job, what: text}).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            done += 1
            if done % 8 == 0 or done == len(requests):
                say(f"{what} {done}/{len(requests)}")
