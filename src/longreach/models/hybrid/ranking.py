"""Rankings of a model's layers: the file that `longreach layers` writes, and where one is found.

A ranking belongs to the weights it was measured with. Those of known models ship beside this module
with the command that made them; others are kept in the cache folder when they are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from longreach.errors import ModelError, UsageError
from longreach.jsontext import JsonObject, NotJson, misfit, parse_object, read_field
from longreach.models.fingerprint import rounded_digest
from longreach.models.loading.places import cache_folder
from longreach.pattern.layers import MIDDLE_THIRD, measured_count, third_of
from longreach.wording import counted

FORMAT = "longreach layers 1"
_SHIPPED = Path(__file__).with_name("rankings")
# What is compared before all weights are read for their digest.
_SIZES = ("num_hidden_layers", "hidden_size", "vocab_size", "num_key_value_heads")
_KINDS = {
    "format": (str,),
    "model": (str,),
    "weights": (str,),
    "sizes": (dict,),
    "order": (list,),
    "choices": (list,),
}


@dataclass(frozen=True)
class Ranking:
    """Which layers of a model stay full, for each number of them.

    Attributes:
        model: What it was loaded from.
        weights: `rounded_digest` of its weights.
        sizes: Of its config, by name.
        order: All layers; those that matter most come first.
        choices: The best full layers found, ascending, by their number.
    """

    model: str
    weights: str
    sizes: dict[str, int]
    order: tuple[int, ...]
    choices: dict[int, tuple[int, ...]]

    def full_layers(self, count: int) -> tuple[int, ...]:
        """Returns the full layers for a number of them, ascending."""
        if count in self.choices:
            return self.choices[count]
        return tuple(sorted(self.order[:count]))

    def fits(self, model: PreTrainedModel) -> bool:
        """Returns whether it was made for a model's weights."""
        # Cheap first: the digest reads every weight.
        return self.sizes == sizes_of(model) and self.weights == rounded_digest(model)


def sizes_of(model: PreTrainedModel) -> dict[str, int]:
    """Returns what of a model's config tells most models apart."""
    config = model.config.get_text_config()
    return {name: int(getattr(config, name, 0) or 0) for name in _SIZES}


def read_ranking(path: str | Path) -> Ranking:
    """Returns the ranking that a file holds.

    Raises:
        UsageError: It cannot be read, or holds something else.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"The ranking '{path}' cannot be read ({error.strerror}): give a file that `longreach"
            " layers` wrote."
        ) from error
    try:
        return parse_ranking(parse_object(data))
    except (NotJson, ValueError) as error:
        raise UsageError(
            f"'{path}' is no ranking of layers ({error}): give a file that `longreach layers`"
            " wrote."
        ) from error


def parse_ranking(value: JsonObject) -> Ranking:
    """Returns the ranking that a JSON object holds.

    Raises:
        ValueError: It holds none; the message is a short reason.
    """
    wrong = misfit(value, _KINDS)
    if wrong is not None:
        raise ValueError(f"it has no usable '{wrong}'")
    if value["format"] != FORMAT:
        raise ValueError(f"its format is not '{FORMAT}'")
    order = tuple(read_field(value, "order", list))
    sizes = read_field(value, "sizes", dict)
    layers = sizes.get("num_hidden_layers")
    if not isinstance(layers, int) or not _are_layers(order, layers) or len(order) != layers:
        raise ValueError("its order does not name every layer once")
    choices = {}
    for choice in read_field(value, "choices", list):
        if misfit(choice, {"full_layers": (list,)}) is not None:
            raise ValueError("a choice in it names no full_layers")
        full = tuple(choice["full_layers"])
        if not _are_layers(full, layers):
            raise ValueError("a choice in it names layers that do not exist")
        choices[len(full)] = tuple(sorted(full))
    model = read_field(value, "model", str)
    return Ranking(model, read_field(value, "weights", str), sizes, order, choices)


def _are_layers(full: tuple[object, ...], layers: int) -> bool:
    """Returns whether all of these are different indices of layers."""
    for layer in full:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < layers:
            return False
    return len(set(full)) == len(full)


def place_of(model: PreTrainedModel) -> Path:
    """Returns where the ranking of a model is kept that was measured on this machine."""
    return cache_folder() / "layers" / f"{rounded_digest(model)[:32]}.json"


def shipped_ranking(model: PreTrainedModel) -> Ranking | None:
    """Returns the ranking that ships for a model; None where there is none."""
    for ranking in _walk_shipped():
        if ranking.fits(model):
            return ranking
    return None


def known_ranking(model: PreTrainedModel) -> Ranking | None:
    """Returns the ranking that ships for a model, else the one that was measured here, or None."""
    shipped = shipped_ranking(model)
    place = place_of(model)
    if shipped is not None or not place.is_file():
        return shipped
    kept = read_ranking(place)
    return kept if kept.fits(model) else None


def measured_layers(
    model: PreTrainedModel, full_layers: str, path: str | Path | None = None
) -> tuple[int, ...]:
    """Returns the layers that "measured" or "measured:N" stands for.

    Args:
        model: A causal language model.
        full_layers: One of the two.
        path: A ranking file; None takes what is known of the model.

    Raises:
        UsageError: There are fewer layers, the ranking was made for another model, or none is
            known.
    """
    layers = model.config.get_text_config().num_hidden_layers
    count = measured_count(full_layers, layers)
    assert count is not None, "the layers are known"
    if path is None:
        ranking = known_ranking(model)
        if ranking is None:
            raise UsageError(
                "No ranking of this model's layers is known: make one with `longreach layers"
                " MODEL`, or give full_layers='middle-third'."
            )
    else:
        ranking = read_ranking(path)
        if not ranking.fits(model):
            own = counted(ranking.sizes["num_hidden_layers"], "layer")
            raise UsageError(
                f"The ranking '{path}' was made for another model ('{ranking.model}', {own}): rank"
                " this one's layers with `longreach layers MODEL`."
            )
    return ranking.full_layers(count)


def usual_layers(model: PreTrainedModel) -> str | tuple[int, ...]:
    """Returns the full layers of a model that becomes hybrid, unless they are named.

    They are the measured ones where a ranking of the model ships, else the middle third.
    """
    ranking = shipped_ranking(model)
    if ranking is None:
        return MIDDLE_THIRD
    return ranking.full_layers(third_of(len(ranking.order)))


def _walk_shipped() -> Iterator[Ranking]:
    for path in sorted(_SHIPPED.glob("*.json")):
        try:
            yield read_ranking(path)
        except UsageError as error:
            raise ModelError(
                f"A file that ships with Longreach is damaged ({path.name}): install it again."
            ) from error
