"""What a suite asks, and what a system said: the records that all parts of an evaluation share."""

from collections.abc import Mapping
from dataclasses import dataclass, field

CLASSES = "classes"
"""The tag of a sample that holds the names its answer is to be one of, a line each."""


@dataclass(frozen=True)
class Sample:
    """One question over one long context.

    A system that takes text reads `before + context + after`; one that reads from a corpus finds
    `context` there under the name `document` and is asked `question`.

    Attributes:
        id: Unique among all samples of a run, and the same in every run of the same settings.
        suite: Name of the suite.
        task: Such as niah_single_1, qa1, fairytaleqa.
        before: What is said before the context: instruction, worked examples.
        context: The long text, in which systems differ.
        after: What is said behind it, with the beginning of the answer where the task gives one.
        question: The bare question, for retrieval and for systems with a prompt of their own.
        answers: What is right; for the metric `all` every one of them, for others any.
        metric: A name in `scores.metrics.METRICS`.
        max_new_tokens: Of the answer.
        length: Tokens that before, context, after and the answer may take together; 0 where the
            text alone decides.
        document: A name for the context; samples of one document share it.
        chat: Whether a model with a chat template is asked through it, `after` then being plain
            words; RULER and BABILong give a raw prompt to be continued where it is False.
        tags: What tables and charts group by, such as depth.
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
    """What a system said to one sample, and what that took.

    Attributes:
        text: The answer.
        read_tokens: Tokens of the text that the system was given, as text or as memory.
        positions: Positions of the prompt.
        new_tokens: Tokens written.
        first_token_seconds: From the question to the first token.
        seconds: From the question to the last token.
        kv_bytes: Of the KV cache when the answer is written.
        peak_bytes: The most memory in use meanwhile: allocated on a GPU, resident on a CPU.
    """

    text: str
    read_tokens: int
    positions: int
    new_tokens: int
    first_token_seconds: float
    seconds: float
    kv_bytes: int
    peak_bytes: int = 0
