"""A stock Llama of a published shape with random weights.

Speed and memory do not depend on the weights.
"""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from longreach.planning.plan import Shape

# Standard deviation of the weights, as at the beginning of training.
_SPREAD = 0.02


@torch.no_grad()
def random_llama(
    shape: Shape, max_length: int, *, dtype: torch.dtype, device: torch.device | str
) -> LlamaForCausalLM:
    """Returns a LlamaForCausalLM in evaluation mode, made where it will live.

    On a GPU 7 billion weights take seconds.

    Args:
        shape: Sizes.
        max_length: Tokens of its window.
        dtype: Of the weights.
        device: Where they live.
    """
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=max_length,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)
    model = model.to(dtype).to_empty(device=device)
    model.tie_weights()
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.fill_(1)
        else:
            parameter.normal_(0, _SPREAD)
    # Its frequencies are no parameters: `to_empty` has left them undefined.
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    made: LlamaForCausalLM = model.eval()
    return made
