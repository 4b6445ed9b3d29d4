"""The options that describe a pattern and which layers are full, and what they mean."""

from collections.abc import Mapping

import typer

from longreach.errors import UsageError
from longreach.pattern import AttentionPattern, LayerPlan

PatternOption = typer.Option(
    "sink-window", "--pattern", help="sink-window or strided; the next four change values."
)
BlockSizeOption = typer.Option(None, "--block-size", help="Tokens per block, a power of two.")
SinkBlocksOption = typer.Option(None, "--sink-blocks", help="First blocks that every token sees.")
LocalBlocksOption = typer.Option(None, "--local-blocks", help="Blocks of the local window.")
StrideOption = typer.Option(None, "--stride", help="Every n-th block stays visible; 0 for none.")
FullLayersOption = typer.Option(
    "middle-third",
    "--full-layers",
    help="middle-third, a number of layers in the middle, or indices: 4,5,6.",
)


def pattern_from(preset: str | AttentionPattern, **changes: int | None) -> AttentionPattern:
    """A preset, or a model's own pattern, with single values changed; None leaves one as it is."""
    base = AttentionPattern.preset(preset) if isinstance(preset, str) else preset
    values = {
        name: getattr(base, name)
        for name in ("block_size", "sink_blocks", "local_blocks", "stride")
    }
    return AttentionPattern(**values | given(changes))


def given(changes: Mapping[str, int | None]) -> dict[str, int]:
    """The values that are not None."""
    return {name: value for name, value in changes.items() if value is not None}


def layers_from(text: str) -> str | int | list[int]:
    """A rule, a number, or indices separated by commas."""
    try:
        found = (
            [int(part) for part in text.split(",") if part.strip()] if "," in text else int(text)
        )
    except ValueError:
        LayerPlan.make(3, text)  # knows the names of the rules
        return text
    negative = found < 0 if isinstance(found, int) else any(index < 0 for index in found)
    if negative or found == []:
        raise UsageError(
            f"--full-layers is '{text}'; give middle-third, a number of layers, or indices such as"
            " 4,5,6."
        )
    return found
