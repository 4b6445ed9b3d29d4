"""How an AutoCompressor is trained: every setting, and what does not go together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, get_args

from longreach.compressors.autocompressor.options import AUTOCOMPRESSOR, Mode, check_mode
from longreach.compressors.method import Value
from longreach.compressors.recipe import AnswerRecipe
from longreach.errors import UsageError
from longreach.jsontext import JsonObject
from longreach.wording import counted

_HERE = "longreach.compressors.autocompressor"


@dataclass(frozen=True)
class AutoCompressorRecipe(AnswerRecipe):
    """How an AutoCompressor is trained.

    Attributes:
        mode: What a segment sees of the vectors before it; see `AutoCompressor`.
        segments: Of a substep; gradients flow through its vectors.
        substeps: Of a sequence; vectors pass from one to the next without gradients.
        longest_segment: The most tokens of a randomized segment; None takes what the window leaves.
            With segment_tokens, all segments are equal.
        distillation: Weight of the divergence from the untrained model with the text itself in
            view; 0 omits it.
        top_k: Tokens of the teacher's distribution that are compared.
        lexical: Weight of the loss of naming each segment's words; see `lexical`. Needs
            `questions`.
        scaffold: Steps during which what is read are not the vectors but the sums of embeddings
            that the lexical loss teaches them to point to; from half of them on less and less, and
            more and more the vectors themselves.
        scale: What vectors are multiplied by where they are read. None makes them as long as
            embeddings, which a model learns to read in far fewer steps than states many times as
            long.
    """

    mode: Mode = "accumulate"
    segments: int = 2
    substeps: int = 2
    longest_segment: int | None = None
    distillation: float = 0.0
    top_k: int = 20
    lexical: float = 0.0
    scaffold: int = 0
    scale: float | None = 1.0

    method = AUTOCOMPRESSOR.name

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_least({"segments": 2, "substeps": 1, "top_k": 1, "scaffold": 0})
        self.check_weights("distillation", "lexical")
        check_mode(self.mode)
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise UsageError(f"scale is {self.scale}; it must be above 0.")
        # Passages that are retrieved stand in any order and number beside each other.
        if self.questions and (self.mode != "independent" or self.distillation):
            raise UsageError(
                "Answers are learned in mode independent, without distillation: ask for these."
            )
        # Predicting text says enough about every vector by itself.
        if self.lexical and not self.questions:
            raise UsageError(
                "The lexical loss goes with questions: give a number of them, or no lexical weight."
            )
        if self.scaffold and not self.lexical:
            raise UsageError(
                "The scaffold is what the lexical loss points to: give that a weight, or no"
                " scaffold."
            )
        if self.longest_segment is not None and self.longest_segment < self.segment_tokens:
            raise UsageError(
                f"longest_segment is {self.longest_segment}, below segment_tokens: raise it."
            )

    @classmethod
    def from_options(cls, options: Mapping[str, Value], **shared: object) -> Self:
        """See `Recipe.from_options`; a scale of 0 stands for the length of embeddings."""
        found: dict[str, Any] = dict(options)
        if "mode" not in found:
            # Answers are learned in this mode only, so asking for questions decides it.
            found["mode"] = "independent" if found.get("questions") else "accumulate"
        if found.get("scale") == 0:
            found["scale"] = None
        return super().from_options(found, **shared)

    @property
    def objective(self) -> str:
        """See `Recipe.objective`."""
        if self.questions:
            return f"{_HERE}.instruct:InstructObjective"
        return f"{_HERE}.objective:TextObjective"

    @property
    def needs_questions(self) -> bool:
        """See `Recipe.needs_questions`; the words of any text can be named."""
        return super().needs_questions and not self.lexical

    @property
    def substep_tokens(self) -> int:
        """N."""
        return self.segments * self.segment_tokens

    @property
    def row_tokens(self) -> int:
        """Tokens of one row of a batch."""
        return self.substeps * self.substep_tokens

    @property
    def lighter(self) -> str:
        """See `Recipe.lighter`."""
        if self.questions:
            return super().lighter
        return (
            f"--segment-tokens (it is {self.segment_tokens}) or --segments (it is {self.segments})"
        )

    def figures(self) -> JsonObject:
        """See `Recipe.figures`."""
        return super().figures() | {"mode": self.mode}


def longest_segment(recipe: AutoCompressorRecipe, window: int | None) -> int:
    """Returns how long a randomized segment may get so that no input leaves the window.

    Args:
        recipe: How the compressor is trained.
        window: Positions of the model; None where it does not say.

    Raises:
        UsageError: Not even a segment of mean length fits.
    """
    assert recipe.mode in get_args(Mode)
    most = recipe.summary_tokens
    total = recipe.segments * recipe.substeps
    # Beside the segment: the vectors before it and its own, or the cue of a reconstruction.
    beside = {
        "accumulate": total * most,
        "replace": 2 * most,
        "independent": max(total - 1, 1) * most,
    }[recipe.mode]
    left = recipe.substep_tokens
    if window is not None:
        left = min(left, window - max(beside, most + 1))
    longest = min(left, recipe.longest_segment or left)
    if longest < recipe.segment_tokens:
        raise UsageError(
            f"A segment of {counted(recipe.segment_tokens, 'token')} with up to"
            f" {counted(beside, 'vector')} before and after it exceeds the model's window of"
            f" {window}: lower segment_tokens, summary_tokens or substeps."
        )
    if recipe.distillation and window is not None and recipe.row_tokens > window:
        raise UsageError(
            f"The teacher of distillation reads {counted(recipe.row_tokens, 'token')} at once,"
            f" more than the model's window of {window}: lower segment_tokens or substeps."
        )
    return longest
