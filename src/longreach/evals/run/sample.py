"""What a suite asks, and what a reader said: the two records that suites, readers, runner and
report share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Sample:
    """One question over one long context.

    A reader that takes text reads `before + context + after`; one that reads from a corpus finds
    `context` there under the name `document` and is asked `question`.

    Attributes:
        id: unique among all samples of a run's suite, and the same in every run of the same
            settings.
        suite: niah, ruler, babilong, docqa.
        task: such as niah_single_1, qa1, fairytaleqa.
        before: what is said before the context: instruction, worked examples.
        context: the long text, in which readers differ.
        after: what is said behind it, with the beginning of the answer where the task gives one.
        question: the bare question, for retrieval and for readers with a prompt of their own.
        answers: what is right; for the metric `all` every one of them, for others any.
        metric: a name in `evals.metrics.METRICS`.
        max_new_tokens: of the answer.
        length: tokens that before, context, after and the answer may take together; 0 where the
            text alone decides.
        document: a name for the context; samples of one document share it.
        chat: whether a model with a chat template is asked through it, `after` then being plain
            words; RULER and BABILong give a raw prompt to be continued where it is False.
        tags: what tables and charts group by, such as depth.
    """

    id: str
    suite: str
    task: str
    before: str
    context: str
    after: str
    question: str
    answers: tuple[str, ...]
    metric: str
    max_new_tokens: int
    length: int = 0
    document: str = ""
    chat: bool = False
    tags: Mapping[str, str | int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """What a reader said to one sample, and what that took.

    Attributes:
        text: the answer.
        read_tokens: tokens of the text that the reader was given, raw or as vectors.
        positions: positions of the prompt.
        new_tokens: tokens written.
        first_token_seconds, seconds: from the question to the first token, and to the last.
        kv_bytes: of the KV cache when the answer is written.
        peak_bytes: the most memory in use meanwhile: allocated on a GPU, resident on a CPU.
    """

    text: str
    read_tokens: int
    positions: int
    new_tokens: int
    first_token_seconds: float
    seconds: float
    kv_bytes: int
    peak_bytes: int


class Answering(Protocol):
    """Whatever answers samples: a model with a way of attending, or a corpus with a policy.

    Attributes:
        name: how tables call it, such as "full", "hybrid", "BM25 passages".
    """

    name: str

    def answer(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        """One prediction a sample, in order; greedy."""
        ...

    def identity(self) -> Mapping[str, object]:
        """What decides its predictions, as JSON: fingerprints of model, compressor and adapter,
        settings."""
        ...
