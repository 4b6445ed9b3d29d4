"""The objective teaches: a tiny model learns to recall a text from its vectors, and from no others."""

import math

import pytest
import torch

from longreach.compressors.autocompressor.objective import TextObjective
from longreach.compressors.autocompressor.recipe import AutoCompressorRecipe
from tests.conftest import make_model, make_tokenizer

TOKENS, SYMBOLS = 4, 8  # a text is 4 of 8 letters, and comes twice: the second time it can be known


def texts(rows, generator):
    text = torch.randint(97, 97 + SYMBOLS, (rows, TOKENS), generator=generator)
    ids = text.repeat(1, 2)
    labels = torch.cat([ids[:, 1:], torch.full((rows, 1), -100)], dim=1)
    labels[:, : TOKENS - 1] = -100  # chance
    return ids, labels


@torch.no_grad()
def recall(objective, k, generator):
    """Losses of the second text with its own vectors in view, and with those of the text in the next row."""
    ids, labels = texts(128, generator)
    first, second = slice(0, TOKENS), slice(TOKENS, 2 * TOKENS)
    vectors = objective(ids[:, first], labels[:, first], (TOKENS,), k).vectors
    losses = []
    for given in (vectors, vectors.roll(1, 0)):
        losses.append(float(objective(ids[:, second], labels[:, second], (TOKENS,), k, given).parts["lm"]))
    return losses


@pytest.mark.slow
def test_a_text_is_recalled_from_its_own_vectors_only():
    model = make_model(hidden_size=48, intermediate_size=96, num_hidden_layers=2, head_dim=12, num_key_value_heads=4)
    recipe = AutoCompressorRecipe(
        segment_tokens=TOKENS,
        summary_tokens=4,
        min_summary_tokens=2,
        substeps=1,
        longest_segment=TOKENS,
        reconstruction=1.0,
        lora_rank=32,
        lora_alpha=32,
        lora_dropout=0.0,
    )
    torch.manual_seed(0)
    objective, generator, steps = TextObjective(model, make_tokenizer(), recipe), torch.Generator(), 600
    with torch.no_grad():
        objective.embed_summary.normal_(0, 0.15)
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=7e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, step / 20) * (1 - step / steps))
    untrained = recall(objective, 4, generator.manual_seed(1))
    for _ in range(steps):
        draw = objective.draw(generator)
        objective(*texts(24, generator), draw.lengths[0], draw.summary_tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    chance = math.log(SYMBOLS)
    assert min(untrained) > chance
    for k in (2, 3, 4):  # one training, any prefix
        right, wrong = recall(objective, k, generator)
        assert right < 0.85 * chance and wrong > 2 * chance
