"""What is set when a compressor is trained, apart from how long and how fast. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self

from longreach.compressors.method import Option, Value
from longreach.errors import UsageError
from longreach.jsontext import JsonObject
from longreach.wording import counted

Targets = Literal["attention", "all"]
# The names that Llama and its many relatives give to their projections.
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ADAPTED: dict[Targets, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "all": (*_ATTENTION, "gate_proj", "up_proj", "down_proj"),
}

ANSWER_OPTIONS = (
    Option("segment_tokens", int, "Tokens compressed together.", default=480),
    Option("min_ratio", int, "The lowest ratio that ingest may ask for.", default=4),
    Option("max_ratio", int, "The highest ratio that is trained.", default=30),
    Option(
        "whole", float, "Share of the steps at the lowest ratio; the others draw one.", default=0.0
    ),
    Option("reconstruction", float, "Weight of reproducing a segment; 0: none.", default=0.0),
    Option(
        "questions",
        int,
        "Learn to answer: the most questions asked about a text in a step. DATA is JSON lines.",
        default=0,
    ),
    Option(
        "most_vectors",
        int,
        "With --questions: vectors of a text at most; the ratio rises where there would be more.",
        default=512,
    ),
    Option(
        "reading",
        int,
        "With --questions: steps before them, of reconstruction alone.",
        default=0,
    ),
)
"""The options of `pretrain` that set an `AnswerRecipe`."""


@dataclass(frozen=True)
class Recipe:
    """How a compressor is trained: what all methods share.

    A method derives its own recipe, whose further settings are fields, and names it in its
    `Method.training`.

    Attributes:
        segment_tokens: Mean tokens of a segment; what the compressor will read at a time.
        lora_rank: Rank of the adapter.
        lora_alpha: Its alpha.
        lora_dropout: Its dropout.
        lora_targets: On the attention's four projections, or on these and the three of the MLP.
        chunk_tokens: Positions whose logits exist at once.

    Raises:
        UsageError: A setting is out of range, or settings do not go together.
    """

    segment_tokens: int = 480
    lora_rank: int = 16
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_targets: Targets = "attention"
    chunk_tokens: int = 1024

    method: ClassVar[str]

    def __post_init__(self) -> None:
        self.check_least({"segment_tokens": 2, "lora_rank": 1, "lora_alpha": 1})
        if self.lora_targets not in ADAPTED:
            listed = ", ".join(ADAPTED)
            raise UsageError(f"lora_targets is '{self.lora_targets}'; it must be one of {listed}.")
        if not 0 <= self.lora_dropout < 1:
            raise UsageError(
                f"lora_dropout is {self.lora_dropout}; it must be at least 0 and below 1."
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Value], **shared: object) -> Self:
        """Returns the recipe that a user asked for.

        Args:
            options: Those of the method's `training_options` that were given.
            **shared: Fields that all methods have.
        """
        return cls(**options, **shared)  # type: ignore[arg-type]

    @property
    def objective(self) -> str:
        """Where the `CompressorObjective` lies, as `package.module:Class`."""
        raise NotImplementedError

    @property
    def from_questions(self) -> bool:
        """Whether it learns from texts with questions; else from rows of tokens."""
        return False

    @property
    def needs_questions(self) -> bool:
        """Whether texts without questions teach it nothing."""
        return True

    @property
    def row_tokens(self) -> int:
        """Tokens of one row, where it learns from rows."""
        return self.segment_tokens

    @property
    def lighter(self) -> str:
        """The options that take less memory when they are lowered, as part of a sentence."""
        return f"--segment-tokens (it is {self.segment_tokens})"

    def settings(self) -> JsonObject:
        """Returns everything that decides the result, as JSON values."""
        return {"method": self.method} | asdict(self)

    def figures(self) -> JsonObject:
        """Returns what is reported of a recipe, as JSON values."""
        return {"segment_tokens": self.segment_tokens}

    def summary(self) -> str:
        """Returns what was trained, as part of a sentence."""
        return f"{counted(self.segment_tokens, 'token')} a segment"

    def check_least(self, least: Mapping[str, float]) -> None:
        """Raises UsageError where a field is below its lowest value."""
        for name, number in least.items():
            value = getattr(self, name)
            # Written so that NaN fails too, with which every comparison is false.
            if not number <= value < math.inf:
                raise UsageError(f"{name} is {value}; it must be at least {number}.")


@dataclass(frozen=True)
class AnswerRecipe(Recipe):
    """How a compressor is trained that makes a number of vectors, and may learn from answers.

    Attributes:
        summary_tokens: K, the most vectors of a segment: segment_tokens / K is the lowest ratio.
        min_summary_tokens: The fewest. Every batch draws k from here to K, uniformly in log k, and
            uses k vectors, so that any number is usable; None keeps k = K.
        whole: Share of the batches that use all K instead, so that the lowest ratio is learned
            first and best.
        reconstruction: Weight of the loss of reproducing each segment from its own vectors; 0 omits
            it.
        questions: The most asked about a text in one step; 0 learns to predict text.
        most_vectors: Of a text of which questions are asked: a longer one is compressed further
            than was drawn.
        reading: Steps at the beginning in which nothing is asked, so that vectors are read before
            they are asked about.
    """

    summary_tokens: int = 120
    min_summary_tokens: int | None = 16
    whole: float = 0.0
    reconstruction: float = 0.0
    questions: int = 0
    most_vectors: int = 512
    reading: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least({"summary_tokens": 1, "most_vectors": 1, "questions": 0, "reading": 0})
        least = self.min_summary_tokens
        if least is not None and not 1 <= least <= self.summary_tokens:
            raise UsageError(f"min_summary_tokens is {least}; give 1 to {self.summary_tokens}.")
        if not 0 <= self.whole <= 1:
            raise UsageError(f"whole is {self.whole}; a share lies between 0 and 1.")
        self.check_weights("reconstruction")
        if self.reading and not (self.questions and self.reconstruction):
            raise UsageError(
                "Reading is learned from reconstruction, before questions: give both a number."
            )

    def check_weights(self, *names: str) -> None:
        """Raises UsageError where a field is no weight of a loss."""
        for name in names:
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; a weight must be at least 0.")

    @classmethod
    def from_options(cls, options: Mapping[str, Value], **shared: object) -> Self:
        """See `Recipe.from_options`; ratios become numbers of vectors."""
        found: dict[str, Any] = {option.name: option.default for option in ANSWER_OPTIONS}
        found |= options
        segment = found["segment_tokens"]
        lowest = found.pop("min_ratio")
        highest = found.pop("max_ratio")
        # Beyond a ratio of the segment's length not one vector would be left.
        if not 1 <= lowest <= highest <= segment:
            raise UsageError(
                f"The ratios are {lowest} to {highest} at {counted(segment, 'token')} a segment:"
                " give 1 <= --min-ratio <= --max-ratio <= --segment-tokens."
            )
        # Rounded down, so that a ratio is a promise of at least so many tokens a vector.
        found["summary_tokens"] = segment // lowest
        found["min_summary_tokens"] = segment // highest
        found |= shared
        return cls(**found)

    @property
    def least_vectors(self) -> int:
        """The fewest vectors that are drawn for a segment."""
        return self.min_summary_tokens or self.summary_tokens

    @property
    def ratio(self) -> int:
        """The lowest ratio, in whole tokens a vector."""
        # Rounded up: at the next lower ratio `ingest` would ask for more vectors than were trained.
        return -(-self.segment_tokens // self.summary_tokens)

    @property
    def from_questions(self) -> bool:
        """See `Recipe.from_questions`."""
        return self.questions > 0

    @property
    def needs_questions(self) -> bool:
        """See `Recipe.needs_questions`; any text can be reproduced."""
        return not self.reconstruction

    @property
    def lighter(self) -> str:
        """See `Recipe.lighter`."""
        return f"{super().lighter} or --questions (it is {self.questions})"

    def figures(self) -> JsonObject:
        """See `Recipe.figures`."""
        return super().figures() | {
            "summary_tokens": self.summary_tokens,
            "min_summary_tokens": self.min_summary_tokens,
            "mode": "independent",
        }

    def summary(self) -> str:
        """See `Recipe.summary`."""
        return f"ratio {self.ratio} and up at {super().summary()}"
