"""The options that describe a pattern and which layers are full, and what they mean."""

from collections.abc import Mapping
from dataclasses import replace

import typer

from longreach.errors import UsageError
from longreach.pattern import AttentionPattern, LayerPlan
from longreach.pattern.layers import is_measured, measured_count

PatternOption = typer.Option(
    "sink-window",
    "--pattern",
    help="Name of a pattern: sink-window or strided. The next four options change its values.",
)
BlockSizeOption = typer.Option(None, "--block-size", help="Tokens of a block, a power of two.")
SinkBlocksOption = typer.Option(None, "--sink-blocks", help="First blocks that every token sees.")
LocalBlocksOption = typer.Option(None, "--local-blocks", help="Blocks of the local window.")
StrideOption = typer.Option(
    None, "--stride", help="Every n-th block stays visible as well; 0 for none."
)
FullLayersOption = typer.Option(
    "middle-third",
    "--full-layers",
    help="Layers that keep full attention: middle-third, a number of layers in the middle,"
    " or indices such as 4,5,6.",
)


def pattern_from(preset: str | AttentionPattern, **changes: int | None) -> AttentionPattern:
    """Returns a preset, or a model's own pattern, with single values changed.

    Args:
        preset: The name of a preset, or a pattern.
        **changes: New values; None leaves one as it is.
    """
    base = preset
    if isinstance(base, str):
        base = AttentionPattern.preset(base)
    return replace(base, **given(changes))


def given(changes: Mapping[str, int | None]) -> dict[str, int]:
    """Returns the values that are not None."""
    return {name: value for name, value in changes.items() if value is not None}


def layers_from(text: str) -> str | int | list[int]:
    """Returns what --full-layers means: the name of a rule, a number of layers, or indices.

    Raises:
        UsageError: It is none of these.
    """
    try:
        if "," not in text:
            number = int(text)
            indices = [number]
        else:
            indices = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        if is_measured(text):
            measured_count(text)
        else:
            # It knows the names of the rules.
            LayerPlan.make(3, text)
        return text
    if not indices or min(indices) < 0:
        raise UsageError(
            f"--full-layers is '{text}'; give middle-third, a number of layers, or indices such as"
            " 4,5,6."
        )
    return indices if "," in text else number
