"""Questions about documents: a user's own, or those of a published data set in its own format.

A preset is a way to read the data, the words that ask, a metric and a length. The words follow the
document, as in LLoCO (arXiv 2404.07979), whose own are used where it has some: so a document can be
read as text or as vectors before the same words. ROUGE-L is what stands for ROUGE.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from longreach.corpus.documents import Document, Skipped, read_all
from longreach.datasets.questions import read_questions
from longreach.engine.sampling import REQUEST
from longreach.errors import DocumentError, UsageError
from longreach.evals.run.metrics import CLASSES
from longreach.evals.run.sample import Sample
from longreach.evals.suites.docqa_articles import hotpotqa, qasper, qmsum
from longreach.evals.suites.docqa_stories import fairytaleqa, narrativeqa, quality, squality
from longreach.evals.suites.longbench import TASKS, longbench
from longreach.evals.suites.records import Item

OWN, LONGBENCH = "documents", "longbench"


@dataclass(frozen=True)
class Preset:
    """How the items of one data set are asked.

    Attributes:
        read: Its items, out of a path or a Hub id, and the split.
        after: The words after the document, with {question}.
        metric: In `evals.metrics.METRICS`.
        max_new_tokens: Of an answer.
        before: The words before the document.
        split: Where the user names none.
        chat: As in `Sample`.
    """

    read: Callable[[str, str], Iterator[Item]]
    after: str
    metric: str = "f1"
    max_new_tokens: int = 128
    before: str = ""
    split: str = "validation"
    chat: bool = True


_PLAIN = "\n\n" + REQUEST + "{question}"
_LONG = "\n\nAnswer the question in one paragraph, using the text above.\n\nQuestion: {question}"
_CHOOSE = "Choose the best answer by writing its corresponding letter (either A, B, C, or D)."
_QUALITY = (
    "\n\nYou are provided a story from above. We will now give you a multiple-choice question with"
    f" 4 possible answers (marked by A, B, C, D). {_CHOOSE}\nExample question:\nWhere is the"
    " capital of France?\n\nChoices:\nA. Berlin\nB. Paris\nC. London\nD."
    f" Tokyo\n{_CHOOSE}\n\nAnswer:\nB. Paris\n\nQuestion:\n{{question}}\n{_CHOOSE}\n\nAnswer:\n"
)
_NARRATIVEQA = (
    "\n\nYou are given a story from above, which can be either a novel or a movie script, and a"
    " question. Answer the question as concisely as you can, using a single phrase if"
    " possible.\nQuestion:{question}\nAnswer:"
)
_QASPER = (
    "\n\nYou are just given an scientific article from above. I will now give you a question."
    " Answer the question as concisely as you can, using a single phrase or sentence if possible."
    " If the question cannot be answered based on the information in the article, write"
    " 'unanswerable'. If the question is a yes/no question, answer 'yes', 'no', or"
    " 'unanswerable'.\nQuestion: {question}\nAnswer:"
)
_QMSUM = (
    "\n\nYou are given a meeting transcript from above. I will now give you a query containing a"
    " question or instruction. Answer the query in one or more sentences. \nQuery:"
    " {question}\nAnswer:"
)
_HOTPOTQA = (
    "\n\nYou were just given an article from above. I will now give you a question. Answer the"
    " question as concisely as you can, using a single phrase or sentence if possible.\nQuestion:"
    " {question}\nAnswer:"
)


def _longbench(name: str) -> Preset:
    task = TASKS[name]
    before, _, after = task.prompt.partition("{context}")
    after = after.replace("{input}", "{question}")
    return Preset(
        lambda given, split: longbench(given, name),
        after,
        task.metric,
        task.max_new_tokens,
        before,
        "test",
        task.chat,
    )


PRESETS: dict[str, Preset] = {
    "fairytaleqa": Preset(fairytaleqa, _PLAIN, max_new_tokens=64, split="val"),
    "narrativeqa": Preset(narrativeqa, _NARRATIVEQA),
    "squality": Preset(squality, _LONG, "rouge_l", 512),
    "quality": Preset(quality, _QUALITY, "choice", 16),
    "qasper": Preset(qasper, _QASPER),
    "qmsum": Preset(qmsum, _QMSUM, "rouge_l", 512),
    "hotpotqa": Preset(hotpotqa, _HOTPOTQA, max_new_tokens=32),
    **{f"{LONGBENCH}-{name}": _longbench(name) for name in TASKS},
}
"""The data sets that are known, by the names of their tasks."""


def preset_samples(
    task: str,
    given: str,
    *,
    split: str | None = None,
    samples: int | None = None,
    seed: int = 0,
    max_new_tokens: int | None = None,
) -> list[Sample]:
    """The questions of a published data set.

    Args:
        task: A name in `PRESETS`.
        given: The path of the data, in its published format, or a Hub id where that is its format.
        split: Of the data, where they have splits; None for the validation part, or the only one.
        samples: So many questions, drawn by the seed, in their order; None for all.
        seed: Of that draw.
        max_new_tokens: Of an answer, instead of the preset's.

    Raises:
        UsageError: There is no such preset, or the data are not as published; file and line are
            named.
        DocumentError: There is no such data set.
        MissingDependency: It can only be a Hub data set, and the library `datasets` is not
            installed.
    """
    if task not in PRESETS:
        raise UsageError(f"There is no task '{task}' of docqa: use one of {', '.join(PRESETS)}.")
    preset = PRESETS[task]
    return _samples(
        task,
        preset,
        preset.read(given, split or preset.split),
        given,
        samples,
        seed,
        max_new_tokens,
    )


def own_samples(
    documents: Sequence[Document],
    questions: str | Path,
    *,
    about: str = "",
    samples: int | None = None,
    seed: int = 0,
    max_new_tokens: int | None = None,
) -> list[Sample]:
    """A user's own questions about documents; each names its document, unless there is only one.

    Args:
        documents: Names and texts.
        questions: JSON lines, as `training.questions.read_questions` reads them.
        about: What the documents are, for what is said, such as a corpus.
        samples: As in `preset_samples`, and so are the others.
        seed: Of the draw.
        max_new_tokens: Of an answer.

    Raises:
        UsageError: The file is damaged, a line is no question (it is named), or a question names no
            document.
    """
    texts = {document.name: document.text for document in documents}
    items = []
    for number, question in enumerate(read_questions(questions, list(texts), about), 1):
        name = question.document or (next(iter(texts)) if len(texts) == 1 else None)
        if name is None:
            raise UsageError(
                f"Question {number} of '{questions}' names no document, and there are {len(texts)}:"
                ' add "document".'
            )
        items.append(
            Item(name, texts[name], question.question, question.answers, f"Question {number}")
        )
    preset = Preset(lambda given, split: iter(()), _PLAIN)
    return _samples(OWN, preset, items, str(questions), samples, seed, max_new_tokens)


def read_documents(paths: Sequence[str | Path]) -> list[Document]:
    """The documents of files and folders, by their paths below the folder that holds them all.

    Raises:
        DocumentError: One of them cannot be read.
    """
    found = list[Document]()
    for item in read_all([Path(path) for path in paths]):
        if isinstance(item, Skipped):
            raise DocumentError(item.reason)
        found.append(item)
    top = (
        os.path.commonpath([str(Path(document.name).parent) for document in found]) if found else ""
    )
    named = list[Document]()
    for document in found:
        named.append(replace(document, name=Path(document.name).relative_to(top).as_posix()))
    return named


def _samples(
    task: str,
    preset: Preset,
    items: Iterable[Item],
    given: str,
    count: int | None,
    seed: int,
    most: int | None,
) -> list[Sample]:
    names: dict[tuple[str, str], str] = {}
    found = []
    for number, item in enumerate(items):
        if not item.answers:
            raise UsageError(f"{item.where} has no answer: correct or remove it.")
        # A story may come in more than one edition under one name: each is a document of its own.
        fresh = f"{item.document} ({number})" if item.document in names.values() else item.document
        name = names.setdefault((item.document, item.text), fresh)
        after = preset.after.replace("{question}", item.question)
        found.append(
            Sample(
                id=f"{task}/{number}",
                suite="docqa",
                task=task,
                before=preset.before,
                context=item.text,
                after=after,
                question=item.question.strip() or after.strip(),
                answers=item.answers,
                metric=preset.metric,
                max_new_tokens=most or preset.max_new_tokens,
                document=name if task == OWN else f"{task}/{name}",
                chat=preset.chat,
                tags={CLASSES: "\n".join(item.classes)} if item.classes else {},
            )
        )
    if not found:
        raise UsageError(f"'{given}' holds no questions: give the data as they were published.")
    if count is None or count >= len(found):
        return found
    chosen = random.Random(f"{seed} {task}").sample(range(len(found)), count)
    return [found[index] for index in sorted(chosen)]
