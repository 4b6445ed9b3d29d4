"""`longreach convert`: a pretrained model into a hybrid one."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from longreach.cli.output import JsonOption, dtype_checked, emit, note, say
from longreach.cli.pattern import (
    BlockSizeOption,
    LocalBlocksOption,
    SinkBlocksOption,
    StrideOption,
    layers_from,
    pattern_from,
)
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def convert(
    model: str = typer.Argument(help="Hub id, folder, .gguf file or 'smollm2'."),
    out: Path = typer.Argument(help="A folder that does not exist yet, or an empty one."),
    pattern: str | None = typer.Option(
        None,
        "--pattern",
        help="Name of a pattern: sink-window or strided. The next four options change its values."
        " [default: sink-window]",
    ),
    block_size: int | None = BlockSizeOption,
    sink_blocks: int | None = SinkBlocksOption,
    local_blocks: int | None = LocalBlocksOption,
    stride: int | None = StrideOption,
    full_layers: str | None = typer.Option(
        None,
        "--full-layers",
        help="Layers that keep full attention: measured or measured:N (see `longreach layers`),"
        " middle-third, a number of layers in the middle, or indices such as 4,5,6. [default:"
        " measured where a ranking of the model ships, else middle-third]",
    ),
    ranking: Path | None = typer.Option(
        None,
        "--ranking",
        help="File of `longreach layers` that measured refers to. [default: the one that ships or"
        " was made here; else it is made first]",
    ),
    max_length: int | None = typer.Option(
        None,
        "--max-length",
        min=1,
        help="Tokens of the new window. [default: a hybrid model's own, else 131072]",
    ),
    rope: str = typer.Option(
        "theta",
        "--rope",
        help="How positions reach further: theta, yarn, linear, or a number that is the new base.",
    ),
    dtype: str | None = typer.Option(
        None,
        "--dtype",
        callback=dtype_checked,
        help="dtype of the result: float32, bfloat16 or float16. [default: float32]",
    ),
    as_json: bool = JsonOption,
) -> None:
    """Turn a model into a hybrid one: full attention in some layers, blocks of it in the others.

    The weights stay as they are; train the result on long texts to use the longer window. A model
    that is hybrid already keeps its own pattern, full layers and window where no option changes
    them.

    Example: longreach convert smollm2 smollm2-hybrid --max-length 32768
    """
    from longreach.errors import UsageError
    from longreach.models.hybrid.rope import DEFAULT_LENGTH, check_length, check_rope
    from longreach.pattern import AttentionPattern
    from longreach.pattern.layers import is_measured

    # Checked first, because loading a model may take minutes.
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"'{out}' exists already: give a folder that does not exist yet, or an empty one."
        )
    base = AttentionPattern.preset(pattern or "sink-window")
    changes = {
        "block_size": block_size,
        "sink_blocks": sink_blocks,
        "local_blocks": local_blocks,
        "stride": stride,
    }
    layers = None
    if full_layers is not None:
        layers = layers_from(full_layers)
    if ranking is not None:
        _check_ranking(ranking, layers)
    new_base = _read_rope(rope)
    check_rope(new_base)
    given = pattern_from(base, **changes)
    # Without --pattern a hybrid model's own counts, which is not known yet.
    if pattern is not None:
        check_length(max_length or DEFAULT_LENGTH, given)

    from longreach.models.hybrid.convert import convert as convert_model
    from longreach.models.hybrid.sparse import pattern_of, plan_of
    from longreach.models.loading.load import load
    from longreach.models.loading.quiet import quiet

    # Nothing is computed with the weights, so they need not go to a GPU.
    loaded, tokenizer = load(model, device="cpu", dtype=dtype)
    # Single values then change the model's own pattern, not the preset's.
    if pattern is None and getattr(loaded.config, "sparse_attention", None) is not None:
        base = pattern_of(loaded.config)
    if is_measured(layers) and ranking is None:
        _measure_unknown(model, loaded, str(layers))
    hybrid = convert_model(
        loaded,
        pattern_from(base, **changes),
        layers,
        max_length,
        rope=new_base,
        ranking=ranking,
    )
    with quiet():
        hybrid.save_pretrained(out)
        tokenizer.save_pretrained(out)
    config = hybrid.config
    before = loaded.config.max_position_embeddings
    if max_length is None and config.max_position_embeddings != before:
        note(
            f"convert: the window grows from {counted(before, 'token')} to"
            f" {config.max_position_embeddings:,}, as no --max-length says how long it is to be."
        )
    plan = plan_of(config)
    length = config.max_position_embeddings
    smaller = plan.kv_reduction(pattern_of(config), length, config.num_key_value_heads)
    report = {
        "folder": str(out),
        "model_type": config.model_type,
        "layers": plan.num_layers,
        "full_layers": list(plan.full),
        "sparse_attention": config.sparse_attention,
        "max_length": length,
        "rope_parameters": dict(config.rope_parameters),
        "kv_reduction": smaller,
    }
    if as_json:
        emit(report)
        return
    say(
        f"{out}: {config.model_type}, {len(plan.full)} of {counted(plan.num_layers, 'layer')} full,"
        f" window {counted(length, 'token')}; its KV cache is {smaller:.1%} smaller there."
    )


def _check_ranking(ranking: Path, layers: object) -> None:
    """Refuses, before a model is loaded, a ranking that cannot be read or is not asked for."""
    from longreach.errors import UsageError
    from longreach.models.hybrid.ranking import read_ranking
    from longreach.pattern.layers import is_measured

    if not is_measured(layers):
        raise UsageError("--ranking is given: add --full-layers measured, or measured:N.")
    read_ranking(ranking)


def _measure_unknown(model: str, loaded: "PreTrainedModel", layers: str) -> None:
    """Ranks a model's layers where no ranking of them is known yet."""
    from longreach.cli.layers import rank
    from longreach.layers.rank import RankSettings
    from longreach.models.hybrid.ranking import known_ranking
    from longreach.pattern.layers import measured_count, third_of

    total = loaded.config.get_text_config().num_hidden_layers
    count = measured_count(layers, total)
    if known_ranking(loaded) is not None:
        return
    note("convert: no ranking of this model's layers is known, so it is measured first.")
    rank(model, RankSettings(most=max(third_of(total), count or 0, 1)))


def _read_rope(text: str) -> str | float:
    """Returns the new base where a number is given, else the name of a rule."""
    try:
        return float(text)
    except ValueError:
        return text
