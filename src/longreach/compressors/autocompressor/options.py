"""What an AutoCompressor can be asked for. Imports no torch."""

from typing import Literal, get_args

from longreach.compressors.method import Method, Option
from longreach.compressors.recipe import ANSWER_OPTIONS
from longreach.errors import UsageError

Mode = Literal["accumulate", "independent", "replace"]
"""What a segment sees of the vectors before it: all, none, or those of the segment before."""

AUTOCOMPRESSOR = Method(
    name="autocompressor",
    home="longreach.compressors.autocompressor.compressor:AutoCompressor",
    options=(
        Option("ratio", int, "Tokens per vector.", least=1),
        Option("segment_tokens", int, "Tokens per passage.", default=1536, least=1),
        Option("summary_tokens", int, "Vectors per passage.", default=50, least=1),
        Option(
            "mode",
            str,
            "What a passage sees of the vectors before it: accumulate, independent or replace.",
            default="accumulate",
            choices=get_args(Mode),
        ),
    ),
    changes_model=True,
    training="longreach.compressors.autocompressor.recipe:AutoCompressorRecipe",
    training_options=(
        *ANSWER_OPTIONS,
        Option(
            "mode",
            str,
            "accumulate, independent or replace. [default: accumulate; --questions: independent]",
            choices=get_args(Mode),
        ),
        Option(
            "segments",
            int,
            "Segments of a substep, which gradients pass through.",
            default=2,
        ),
        Option("substeps", int, "Substeps of a sequence.", default=2),
        Option("distillation", float, "Weight of agreeing with the text read.", default=0.0),
        Option("lexical", float, "With --questions: weight of naming a segment's words.", 0.0),
        Option("scaffold", int, "With --lexical: steps in which reading is learned beside it.", 0),
        Option(
            "scale",
            float,
            "What vectors are multiplied by to be read; 0: as long as embeddings.",
            default=1.0,
        ),
    ),
)


def check_mode(mode: str) -> None:
    """Raises UsageError where an AutoCompressor has no such mode."""
    if mode not in get_args(Mode):
        raise UsageError(f"mode is '{mode}'; it must be one of {', '.join(get_args(Mode))}.")
