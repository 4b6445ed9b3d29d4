"""Small random models of every supported family, a tokenizer made in memory, and the real model."""

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # runs Triton's kernels on a CPU; chosen before triton is first imported

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# A shell that starts the tests in the background makes them deaf to Ctrl-C, which some of them send.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # the random models are so small that a second thread only waits

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<s>"]
SHAPE = {
    "vocab_size": 256 + len(SPECIAL),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "bos_token_id": 259,
    "eos_token_id": 256,
    "pad_token_id": 256,
}
FAMILIES = {
    "llama": ("LlamaForCausalLM", {}),
    "mistral": ("MistralForCausalLM", {"sliding_window": 16}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {}),
    "gemma": ("GemmaForCausalLM", {}),
    "gemma2": ("Gemma2ForCausalLM", {"sliding_window": 16}),
    "gemma3": ("Gemma3ForCausalLM", {"sliding_window": 16}),
}


def make_model(family="llama", seed=0, **shape):
    """A random model in float32 whose weights are large enough that every input matters."""
    torch.manual_seed(seed)
    name, extra = FAMILIES[family]
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**(SHAPE | extra | shape))).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    return model


def make_tokenizer(chat=True):
    """Bytes as tokens: an emoji is four of them, so that spans and streaming meet split characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>", bos_token="<s>"
    )
    tokenizer.chat_template = CHAT if chat else None
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def model():
    return make_model()


@pytest.fixture(scope="session")
def _real_model():
    import longreach

    return longreach.load("smollm2", device="cpu")


@pytest.fixture
def smollm2(_real_model):
    """The real model; the conversion out of GGUF is cached as for any user."""
    torch.set_num_threads(os.cpu_count() or 1)
    yield _real_model
    torch.set_num_threads(1)
