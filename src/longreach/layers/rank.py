"""`rank_layers`: from a model to the ranking of its layers, as a report that `convert` reads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from longreach.errors import StorageError, UsageError
from longreach.jsontext import JsonObject
from longreach.layers.kinds import KINDS
from longreach.layers.measure import Measure, Progress
from longreach.layers.probes import digest_probes, make_probes
from longreach.layers.result import HeadCost, RankedChoice, RankedLayers, describe_heads
from longreach.layers.search import Found, search
from longreach.models.decoder import window_of
from longreach.models.fingerprint import rounded_digest
from longreach.models.hybrid.ranking import FORMAT, place_of, sizes_of
from longreach.models.hybrid.states import LayerRunner
from longreach.models.loading.origin import reference_of
from longreach.pattern import AttentionPattern, LayerPlan
from longreach.pattern.layers import third_of
from longreach.planning.plan import Shape
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROGRESS_SUFFIX = ".progress"
# Tokens of a block of the probes' pattern.
_BLOCK = 64


@dataclass(frozen=True)
class RankSettings:
    """What decides a ranking.

    Attributes:
        length: Tokens of each probe.
        window: Tokens of the sparse layers' window.
        samples: Probes of each kind, with three questions each.
        kinds: Kinds of retrieval; names of `longreach.layers.kinds.KINDS`.
        most: Full layers at most; None for round(L / 3).
        heads: Whether KV heads are ranked as well.
        seed: Of all chance.

    Raises:
        UsageError: A value is out of range.
    """

    length: int = 1024
    window: int = 256
    samples: int = 4
    kinds: tuple[str, ...] = tuple(KINDS)
    most: int | None = None
    heads: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.window < _BLOCK or self.window % _BLOCK:
            raise UsageError(
                f"window is {self.window}; give a multiple of {_BLOCK}, the tokens of a block."
            )
        if self.window >= self.length:
            raise UsageError(
                f"length is {self.length} and the window {self.window}, so nothing lies outside"
                " the window: give a greater length or a smaller window."
            )

    @property
    def pattern(self) -> AttentionPattern:
        """Returns what sparse layers see: a sink of one block, and the window."""
        return AttentionPattern(_BLOCK, 1, self.window // _BLOCK, 0)


def rank_layers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: RankSettings | None = None,
    *,
    text: str | None = None,
    out: str | Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    **about: object,
) -> RankedLayers:
    """Ranks a model's layers by what it costs its answers to have them sparse.

    Nothing is trained. Probes ask for facts that lie outside the window of sparse layers, and the
    NLL of the answers says which layers have to be full for them to be found. Stopped anywhere, the
    same call resumes.

    Args:
        model: A causal language model of the Llama, Mistral, Qwen2 or Qwen3 family.
        tokenizer: Its tokenizer, a fast one.
        settings: None for the usual ones.
        text: Prose as the filler of the probes; None makes it of templates.
        out: Where the ranking is written, for `convert(ranking=out)`; None for where
            `convert(full_layers="measured")` looks.
        say: Told what is measured.
        **about: What else the file is to say, such as the command.

    Returns:
        What was found: for each number of full layers the best ones, their NLL, the share of
            answers found, and the bytes of keys and values; and the cost of each layer alone.

    Raises:
        UsageError: The family has no hybrid form, or a setting does not fit the model or the text.
        StorageError: The ranking cannot be written.

    Paper: NLL-guided choice of full layers (arXiv 2606.27791).
    """
    settings = settings or RankSettings()
    layers = model.config.get_text_config().num_hidden_layers
    most = third_of(layers) if settings.most is None else settings.most
    if not 1 <= most <= layers:
        raise UsageError(f"most is {most}; give 1 to {layers}, the layers of this model.")
    window = window_of(model)
    if window is not None and settings.length > window:
        raise UsageError(
            f"length is {settings.length} and the model reads {counted(window, 'token')}: give a"
            " smaller length."
        )
    probes = make_probes(
        tokenizer,
        settings.pattern,
        length=settings.length,
        samples=settings.samples,
        kinds=settings.kinds,
        seed=settings.seed,
        text=text,
    )
    ids = torch.tensor([probe.ids for probe in probes], device=model.device)
    # It refuses families without a hybrid form, before weights are read for their digest.
    runner = LayerRunner(model, settings.pattern, ids)
    weights = rounded_digest(model)
    place = Path(out) if out is not None else place_of(model)
    decisive: JsonObject = {
        "weights": weights,
        "probes": digest_probes(probes),
        "pattern": asdict(settings.pattern),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    began = time.perf_counter()
    used = time.process_time()
    kept = place.with_name(place.name + PROGRESS_SUFFIX)
    measure = Measure(runner, probes, Progress(kept, decisive), say)
    found = search(measure, most)
    heads = _rank_heads(measure, model) if settings.heads else None
    choices = _describe_choices(found, model)
    report: JsonObject = {
        "format": FORMAT,
        "model": reference_of(model),
        "sizes": sizes_of(model),
        **decisive,
        **asdict(settings),
        "kinds": list(settings.kinds),
        "most": most,
        "filler": "templates" if text is None else "a text of the user's",
        "order": found.order,
        "costs": found.costs,
        "choices": [choice.to_json() for choice in choices],
        "heads": describe_heads(heads),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - used,
        **about,
    }
    _write(place, report)
    kept.unlink(missing_ok=True)
    name = reference_of(model)
    return RankedLayers(name, found.order, found.costs, choices, heads, place, report)


def _rank_heads(measure: Measure, model: PreTrainedModel) -> list[HeadCost]:
    """Returns each KV head with its cost, from the one that matters most."""
    every = range(measure.num_layers)
    complete = measure.whole(every)
    heads = []
    for layer in every:
        for head in range(model.config.num_key_value_heads):
            cost = measure.head(layer, head).nll - complete.nll
            heads.append(HeadCost(layer, head, cost))
    return sorted(heads, key=lambda one: -one.cost)


def _describe_choices(found: Found, model: PreTrainedModel) -> list[RankedChoice]:
    """Returns the choices with what their cache takes."""
    shape = Shape.of(model.config)
    length = model.config.max_position_embeddings
    # Bytes of the pattern that `convert` uses unless told otherwise, not of the probes' one.
    usual = AttentionPattern.sink_window()
    described = []
    for choice in found.choices.values():
        plan = LayerPlan(shape.layers, choice.full)
        kv_bytes = plan.kv_bytes(usual, length, shape.kv_heads, shape.head_dim, 2)
        described.append(RankedChoice(choice.full, choice.score, sum(kv_bytes), length))
    return described


def _write(place: Path, report: JsonObject) -> None:
    """Writes the report, whole or not at all."""
    aside = place.with_name(place.name + ".partial")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        aside.replace(place)
    except OSError as error:
        raise StorageError(
            f"The ranking cannot be written to '{place}' ({error.strerror}): make space or give"
            " another --out."
        ) from error
