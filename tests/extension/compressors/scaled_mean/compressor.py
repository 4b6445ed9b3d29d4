"""Means of embeddings, each dimension times a number that was learned."""

import json

import torch
from safetensors.torch import load_file, save_file

from longreach.compressors.base import Compressor
from longreach.compressors.shipped import SETTINGS_FILE, reference, resolve_folder, settings_of
from longreach.errors import ModelError
from longreach.models.fingerprint import base_fingerprint
from longreach.models.loading.load import load_named

WEIGHTS = "compressor.safetensors"


def scaled_means(embeddings, ratio, weight):
    """The vectors [n, d] of embeddings [T, d]."""
    return torch.stack([chunk.mean(0) for chunk in embeddings.split(ratio)]) * weight.to(embeddings.dtype)


class ScaledMean(Compressor):
    """A vector for every `ratio` tokens."""

    method = "scaled-mean"

    def __init__(self, model, tokenizer, weight, *, ratio, segment_tokens):
        super().__init__(model, tokenizer, segment_tokens=segment_tokens)
        self.weight = weight
        self.ratio = ratio

    @classmethod
    def from_pretrained(cls, folder, model=None, tokenizer=None, **settings):
        stored = settings_of(resolve_folder(folder))
        if model is None or tokenizer is None:
            model, tokenizer = load_named(stored["model"])
        if stored["base_fingerprint"] != base_fingerprint(model, tokenizer):
            raise ModelError(f"'{folder}' was made for another model: load that one.")
        weight = load_file(resolve_folder(folder) / WEIGHTS)["weight"].to(model.device)
        chosen = {"ratio": stored["ratio"], "segment_tokens": stored["segment_tokens"]} | settings
        made = cls(model, tokenizer, weight, **chosen)
        made.ref = reference(folder)
        return made

    def describe(self):
        return {"method": self.method, "ratio": self.ratio, "segment_tokens": self.segment_tokens}

    def own_tensors(self):
        return {"weight": self.weight}

    def vectors_in(self, tokens):
        return -(-tokens // self.ratio)

    def stream(self, jobs, *, batch_size=None):
        return self.stream_segments(
            jobs, batch_size, lambda rows: [scaled_means(row, self.ratio, self.weight) for row in rows]
        )


def write(folder, weight, recipe, model_ref, fingerprint):
    """Writes what `from_pretrained` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": weight.detach().float().cpu().contiguous()}, folder / WEIGHTS)
    settings = {"method": recipe.method, "ratio": recipe.width, "segment_tokens": recipe.segment_tokens}
    settings |= {"model": model_ref, "base_fingerprint": fingerprint}
    (folder / SETTINGS_FILE).write_text(json.dumps(settings))
