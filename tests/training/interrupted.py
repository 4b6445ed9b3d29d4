"""A training run as a process of its own: `python interrupted.py TEXTS OUT CACHE STEPS`, alone or under torchrun."""

import sys

import torch

from longreach.training.extend.extend import extend
from longreach.training.extend.settings import ExtendSettings
from tests.conftest import make_tokenizer
from tests.training.conftest import make_hybrid


def settings_of(steps):
    return ExtendSettings(
        length=128, steps=steps, batch_tokens=256, held_out=2, save_every=2, eval_every=1000, learning_rate=1e-2
    )


def train(texts, out, cache, steps, say=None):
    torch.set_num_threads(1)
    return extend(make_hybrid(), make_tokenizer(), [texts], out, settings_of(steps), device="cpu", cache=cache, say=say)


if __name__ == "__main__":
    from pathlib import Path

    train(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
