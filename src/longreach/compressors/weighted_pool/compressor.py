"""Weighted pooling: a few words in one vector, the telling ones loudest.

Papers: mean pooling with a model that learns it, arXiv 2510.20797. Here the input embeddings are
pooled, and how loud a token is in the sum is learned, one number a token of the vocabulary. What
reads the sums is a LoRA, learned with them. Telling words share a vector with few others.
Compressing takes no forward pass: a book is read in the time that its tokens are looked up.

Shapes: T tokens of a segment, n vectors, V tokens of the vocabulary, d hidden size.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from longreach.compressors.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, READER
from longreach.compressors.base import Compressor
from longreach.compressors.jobs import Job, SegmentMemory
from longreach.compressors.shipped import SETTINGS_FILE, reference, resolve_folder, settings_of
from longreach.compressors.weighted_pool.options import WEIGHTED_POOL
from longreach.errors import ModelError, UsageError
from longreach.jsontext import JsonObject, JsonValue, read_field
from longreach.models.decoder import embedding_weight, length_of_embeddings
from longreach.models.fingerprint import base_fingerprint
from longreach.models.loading.load import load_named
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_WEIGHTS = "compressor.safetensors"
_SETTINGS = ("ratio", "segment_tokens")
_ADAPTER = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)


def pooled(embeddings: Tensor, loudness: Tensor, ratio: int, length: float) -> Tensor:
    """Returns the vectors [n, d] of a segment, n = T / ratio rounded up.

    They are sums of its tokens' embeddings, as loud as these are.

    Args:
        embeddings: [T, d].
        loudness: Of each token, [T]; the logits of the softmax that weighs the tokens of one
            vector.
        ratio: Tokens a vector stands for on average.
        length: Of every vector.
    """
    count = -(-len(loudness) // ratio)
    bins = shared(loudness.detach(), count)
    # The softmax of each vector's tokens, without numbers that overflow.
    peak = loudness.new_full((count,), -torch.inf).scatter_reduce(
        0, bins, loudness.detach(), "amax"
    )
    weights = (loudness - peak[bins]).exp()
    sums = embeddings.new_zeros(count, embeddings.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, bins, weights[:, None] * embeddings.float())
    return length * torch.nn.functional.normalize(sums, dim=-1)


def shared(loudness: Tensor, count: int) -> Tensor:
    """Returns which of `count` vectors each token goes into, [T].

    They are consecutive, none is empty, and there is about equally much in each.

    What counts is the square root of a token's weight, so that telling words get vectors of their
    own, or nearly, and stretches without any share one.
    """
    mass = (0.5 * (loudness.float() - loudness.max())).exp().cumsum(0)
    before = torch.cat([mass.new_zeros(1), mass[:-1]])
    bins = ((before + mass) / 2 / mass[-1] * count).long().clamp(max=count - 1)
    place = torch.arange(len(loudness), device=loudness.device)
    # No vector is omitted,
    bins = place + (torch.minimum(bins, place) - place).cummin(0).values
    # to the last.
    return torch.maximum(bins, place + count - len(loudness))


class WeightedPool(Compressor):
    """Of every `ratio` tokens of a segment on average one vector is made, as long as an embedding.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        ratio: Tokens a vector stands for on average; more where little is said, fewer where much
            is.
        segment_tokens: The size of a passage; vectors do not reach beyond one.
        token_loudness: Logits [V]; None: all alike.
        reader: Folder of the PEFT adapter that was learned with it. A new corpus takes a copy,
            answers with it, and begins its study from it.
    """

    method = WEIGHTED_POOL.name

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        ratio: int = 15,
        *,
        segment_tokens: int = 240,
        token_loudness: Tensor | None = None,
        reader: Path | None = None,
    ) -> None:
        super().__init__(model, tokenizer, segment_tokens=segment_tokens)
        if not 1 <= ratio <= segment_tokens:
            raise UsageError(
                f"ratio is {ratio}; it must lie between 1 and the"
                f" {counted(segment_tokens, 'token')} of a segment."
            )
        weight = embedding_weight(model)
        given = torch.zeros(len(weight)) if token_loudness is None else token_loudness
        if given.shape != weight.shape[:1]:
            raise UsageError(
                f"token_loudness has shape {tuple(given.shape)}; {len(weight)} are needed: one a"
                " token."
            )
        self.ratio = ratio
        self.reader = reader
        # In float32, because bfloat16 would make the loudness of many tokens the same.
        self.token_loudness = given.to(weight.device, torch.float32)
        self.length = length_of_embeddings(model)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        model: "PreTrainedModel | None" = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        **settings: Any,
    ) -> Self:
        """Loads what `save` wrote.

        Args:
            folder: Of the compressor, or the name of one that ships.
            model: The base model; None loads the one the folder names.
            tokenizer: Its tokenizer.
            **settings: Ratio or segment_tokens, where they differ from those stored.

        Raises:
            ModelError: The folder holds no such compressor, or one of another model.
        """
        ref = reference(folder)
        folder = resolve_folder(folder)
        stored = settings_of(folder)
        if stored.get("method") != cls.method:
            raise ModelError(f"'{folder}' holds no {cls.method}: check the path of the compressor.")
        if model is None or tokenizer is None:
            model, tokenizer = load_named(read_field(stored, "model", str))
        if stored.get("base_fingerprint") != base_fingerprint(model, tokenizer):
            raise ModelError(
                f"The compressor in '{folder}' was made for another model ({stored.get('model')}):"
                " load that one."
            )
        if missing := [key for key in _SETTINGS if not isinstance(stored.get(key), int)]:
            raise ModelError(
                f"'{folder / SETTINGS_FILE}' lacks {missing[0]}: copy the checkpoint again."
            )
        try:
            loudness = load_file(folder / _WEIGHTS)["token_loudness"]
        except (OSError, KeyError, SafetensorError) as error:
            raise ModelError(
                f"'{folder / _WEIGHTS}' cannot be read ({error}): copy the checkpoint again."
            ) from error
        reader = folder / READER
        # Saving or copying it was cut short.
        if not all((reader / name).is_file() for name in _ADAPTER):
            raise ModelError(
                f"'{reader}' lacks its adapter: copy the checkpoint again, or resume its training."
            )
        chosen: dict[str, Any] = {key: stored[key] for key in _SETTINGS} | settings
        pool = cls(model, tokenizer, token_loudness=loudness, reader=reader, **chosen)
        pool.ref = ref
        return pool

    def describe(self) -> JsonObject:
        """See `Compressor.describe`."""
        return {"method": self.method, "ratio": self.ratio, "segment_tokens": self.segment_tokens}

    def own_tensors(self) -> dict[str, Tensor]:
        """Returns how loud each token is."""
        return {"token_loudness": self.token_loudness}

    def vectors_in(self, tokens: int) -> int:
        """Returns one for every `ratio` tokens begun."""
        return -(-tokens // self.ratio)

    def stream(
        self, jobs: Iterable[Job], *, batch_size: int | None = None
    ) -> Iterator[SegmentMemory]:
        """See `Compressor.stream`; there is nothing that a batch would speed up."""
        for job in jobs:
            for number, span in enumerate(self.segments(len(job.ids))):
                if number >= len(job.done):
                    vectors = self._vectors(job.ids[span.start : span.stop])
                    yield SegmentMemory(job.key, number, self.remember(vectors))

    @torch.no_grad()
    def _vectors(self, ids: Sequence[int]) -> Tensor:
        loudness = self.token_loudness[torch.tensor(list(ids), device=self.token_loudness.device)]
        return pooled(self.embed(ids), loudness, self.ratio, self.length).to(self.dtype)


def write_pool(
    folder: Path,
    token_loudness: Tensor,
    settings: Mapping[str, JsonValue],
    model_ref: str,
    fingerprint: str,
) -> Path:
    """Writes a weighted pool without the adapter that reads it, for which it returns the folder.

    Args:
        folder: Made where missing.
        token_loudness: [V].
        settings: Ratio and segment_tokens.
        model_ref: The base model, as `longreach.load` takes it.
        fingerprint: The base model's.
    """
    (folder / READER).mkdir(parents=True, exist_ok=True)
    save_file(
        {"token_loudness": token_loudness.detach().float().cpu().contiguous()}, folder / _WEIGHTS
    )
    described = {
        "method": WeightedPool.method,
        **settings,
        "model": model_ref,
        "base_fingerprint": fingerprint,
    }
    # Written last: a folder that has it is whole.
    (folder / SETTINGS_FILE).write_text(json.dumps(described, indent=2) + "\n")
    return folder / READER
