"""Presets: how the items of published data sets are asked about.

A preset is a way to read the data, the words that ask, a metric and a length. The words follow the
document, as in LLoCO (arXiv 2404.07979), whose own are used where it has some: so a document can be
read as text or as memory before the same words. ROUGE-L is what stands for ROUGE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from longreach.engine.sampling import REQUEST
from longreach.evals.suites.docqa.articles import hotpotqa, qasper, qmsum
from longreach.evals.suites.docqa.longbench import TASKS, read_longbench
from longreach.evals.suites.docqa.stories import fairytaleqa, narrativeqa, quality, squality
from longreach.evals.suites.records import QuestionRecord

LONGBENCH = "longbench"
"""The name under which the data of all of LongBench's tasks are given."""


@dataclass(frozen=True)
class Preset:
    """How the items of one data set are asked about.

    Attributes:
        read: Its items, out of a path or a Hub id, and the split.
        after: The words after the document, with {question}.
        metric: In `evals.metrics.METRICS`.
        max_new_tokens: Of an answer.
        before: The words before the document.
        split: Where the user names none.
        chat: As in `Sample`.
    """

    read: Callable[[str, str], Iterator[QuestionRecord]]
    after: str
    metric: str = "f1"
    max_new_tokens: int = 128
    before: str = ""
    split: str = "validation"
    chat: bool = True


PLAIN = "\n\n" + REQUEST + "{question}"
"""The words that ask a plain question."""
# Of data sets that LLoCO did not use.
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


def _make_longbench_preset(name: str) -> Preset:
    task = TASKS[name]
    # A prompt of LongBench holds its context somewhere in the middle.
    before, _, after = task.prompt.partition("{context}")
    return Preset(
        read=lambda given, split: read_longbench(given, name),
        after=after.replace("{input}", "{question}"),
        metric=task.metric,
        max_new_tokens=task.max_new_tokens,
        before=before,
        split="test",
        chat=task.chat,
    )


PRESETS: dict[str, Preset] = {
    "fairytaleqa": Preset(fairytaleqa, PLAIN, max_new_tokens=64, split="val"),
    "narrativeqa": Preset(narrativeqa, _NARRATIVEQA),
    "squality": Preset(squality, _LONG, "rouge_l", 512),
    "quality": Preset(quality, _QUALITY, "choice", 16),
    "qasper": Preset(qasper, _QASPER),
    "qmsum": Preset(qmsum, _QMSUM, "rouge_l", 512),
    "hotpotqa": Preset(hotpotqa, _HOTPOTQA, max_new_tokens=32),
    **{f"{LONGBENCH}-{name}": _make_longbench_preset(name) for name in TASKS},
}
"""The data sets that are known, by the names of their tasks."""
