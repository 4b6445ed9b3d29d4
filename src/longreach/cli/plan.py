"""`longreach plan`: what a model at a length needs and could reach on given cards."""

from dataclasses import asdict

import typer

from longreach.cli.output import JsonOption, emit, say, table
from longreach.cli.pattern import (
    BlockSizeOption,
    FullLayersOption,
    LocalBlocksOption,
    PatternOption,
    SinkBlocksOption,
    StrideOption,
    layers_from,
    pattern_from,
)


def plan(
    shape: str = typer.Option(
        ..., "--shape", help="A published shape such as llama2-7b; a wrong name lists them all."
    ),
    length: int = typer.Option(131072, "--length", help="Tokens of each row."),
    hardware: str = typer.Option(
        "h100", "--hardware", help="A card, or a number of them, such as 8xh100."
    ),
    pattern: str = PatternOption,
    block_size: int | None = BlockSizeOption,
    sink_blocks: int | None = SinkBlocksOption,
    local_blocks: int | None = LocalBlocksOption,
    stride: int | None = StrideOption,
    full_layers: str = FullLayersOption,
    rows: int = typer.Option(1, "--rows", help="Rows of the batch."),
    as_json: bool = JsonOption,
) -> None:
    """Compare a full with a hybrid model by arithmetic: memory, work, times and what fits where.

    Times are those at the cards' peak: limits, not forecasts. Nothing is loaded or run. The cards
    named at the end are the fewest that suffice.

    Example: longreach plan --shape llama2-7b --length 131072 --hardware 8xh100
    """
    from longreach.pattern import LayerPlan
    from longreach.planning.plan import hardware as cards
    from longreach.planning.plan import plan as compare
    from longreach.planning.plan import shape as sizes

    model = sizes(shape)
    sparse = pattern_from(
        pattern,
        block_size=block_size,
        sink_blocks=sink_blocks,
        local_blocks=local_blocks,
        stride=stride,
    )
    layers = LayerPlan.make(model.layers, layers_from(full_layers))
    result = compare(model, length, cards(hardware), sparse, layers, rows=rows)
    gains = {
        "kv_reduction": result.kv_reduction,
        "prefill_speedup": result.prefill_speedup,
        "decode_speedup": result.decode_speedup,
        "training_speedup": result.training_speedup,
    }
    full = asdict(result.full)
    hybrid = asdict(result.hybrid)
    if as_json:
        asked = {
            "shape": shape,
            "length": length,
            "hardware": hardware,
            "pattern": asdict(sparse),
            "rows": rows,
            "full_layers": list(layers.full),
        }
        emit({**asked, "full": full, "hybrid": hybrid, **gains})
        return
    for values in (full, hybrid):
        # The number of cards and the recipe that takes them share one cell of the table.
        for use in ("serving", "training", "lora"):
            values[f"{use}_cards"] = f"{values[f'{use}_cards']}: {values.pop(f'{use}_recipe')}"
    lines = []
    for name in full:
        lines.append(
            (name.replace("_", " "), _format(name, full[name]), _format(name, hybrid[name]))
        )
    table(("", "full", "hybrid"), lines)
    # Limits, because these are times at the cards' peak, which nobody reaches.
    limits = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in gains.items())
    say(f"\nlimits: {limits}")


def _format(name: str, value: float | str) -> str:
    """Returns a figure in the unit that its name ends in; a text stays as it is."""
    if isinstance(value, str):
        return value
    if name.endswith("bytes"):
        return f"{value / 2**30:,.1f} GiB"
    if name.endswith("flops"):
        return f"{value / 1e12:,.1f} TFLOP"
    # Not at the end alone: decode_seconds_per_token has its unit in the middle.
    if "seconds" in name:
        return f"{value:,.4g} s"
    return str(value)
