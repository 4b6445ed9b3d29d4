"""A real model made hybrid: what it writes with a cache that frees keys is what it would write with every key there."""

from pathlib import Path

import pytest
import torch

import longreach
from longreach.models.cached import cache_in

# A window of 64 tokens, a sink and an eighth of all blocks: most of the prompt below leaves it.
PATTERN = longreach.AttentionPattern(block_size=16, sink_blocks=1, local_blocks=4, stride=8)
PROMPT, NEW = 300, 200
# Of logits up to 30 in float32: what the same sums in other shapes make of rounding (5e-5 measured), times ten.
ROUNDING = 5e-4


@pytest.mark.slow
@pytest.mark.real
def test_two_hundred_greedy_tokens_of_a_real_model_need_no_freed_key(smollm2):
    torch.set_num_threads(1)  # a token is too little work for a second one
    stock, tokenizer = smollm2
    text = (Path(__file__).resolve().parents[2] / "examples" / "alice.txt").read_text(encoding="utf-8")
    ids = torch.tensor([tokenizer(text[:4000], add_special_tokens=False)["input_ids"][:PROMPT]])
    model = longreach.convert(stock, PATTERN)
    with torch.no_grad():
        written = model.generate(
            ids, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        whole = model(written.sequences, use_cache=False).logits[0, PROMPT - 1 : -1]
        full = stock(written.sequences).logits[0, PROMPT - 1 : -1]
    tokens, cached = written.sequences[0, PROMPT:], torch.cat(written.logits)
    assert len(tokens) == NEW
    # Every token is the best one without a cache, up to ties within rounding.
    assert (whole.amax(1) - whole.gather(1, tokens[:, None])[:, 0]).max() <= ROUNDING
    assert (cached - whole).abs().max() <= ROUNDING
    # And neither is what the stock model computes, nor does the cache hold what it would.
    assert (full - whole).abs().max() > 1
    sparse = cache_in(written).layers[0]
    held = sparse.keys.shape[2] + sparse.far_keys.shape[2]
    assert held <= PATTERN.window_tokens + 16 * (1 + (PROMPT + NEW) // (8 * 16) + 1) < (PROMPT + NEW) // 2
