"""The other end of `peers.kvpress`: answers samples with kvpress, in an environment of its own.

Run as a script by that environment's Python; it imports nothing of longreach. It reads a JSON line
with the model and the press, says its versions, and then answers each line with one.
"""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Sample(TypedDict):
    """What is asked."""

    context: str
    question: str
    max_new_tokens: int


def main(asked: TextIO, said: TextIO) -> None:
    """Answers until there is nothing more to answer."""
    setup = json.loads(asked.readline())
    try:
        import kvpress
    except ImportError as error:
        _say(said, {"missing": str(error)})
        return
    press = getattr(kvpress, setup["press"], None)
    if press is None:
        _say(said, {"unknown": [name for name in vars(kvpress) if name.endswith("Press")]})
        return
    import torch
    import transformers

    # No Python of the model's folder runs, and what lies in a folder is not looked for elsewhere.
    safe = {"trust_remote_code": False, "local_files_only": Path(setup["model"]).is_dir()}
    tokenizer = transformers.AutoTokenizer.from_pretrained(setup["model"], **safe)
    dtype = getattr(torch, setup["dtype"])
    model = transformers.AutoModelForCausalLM.from_pretrained(setup["model"], dtype=dtype, **safe)
    model = model.to(setup["device"]).eval()
    # Whoever waits knows from this line that the model is there.
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    _say(said, {"versions": versions})
    for line in asked:
        with torch.no_grad():
            made = press(compression_ratio=setup["ratio"])
            _say(said, _answer(json.loads(line), model, tokenizer, made))


def _answer(
    sample: "Sample",
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    press: "Callable[[PreTrainedModel], AbstractContextManager[object]]",
) -> dict[str, object]:
    """Reads and compresses the context, then reads the question and writes greedy tokens."""
    import torch
    from transformers import DynamicCache

    began = time.perf_counter()
    context = _encode(tokenizer, sample["context"], model.device)
    question = _encode(tokenizer, sample["question"], model.device)
    stops = _stop_tokens(model, tokenizer)
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    # The press compresses when the context was read, and does not see the question.
    cache: Any = DynamicCache()
    with press(model):
        model.model(input_ids=context, past_key_values=cache)
    tokens = list[int]()
    times = list[float]()
    # The press drops entries of the cache; positions count from the whole context all the same.
    position = context.shape[1]
    ids = question
    while len(tokens) < sample["max_new_tokens"]:
        positions = torch.arange(position, position + ids.shape[1], device=model.device)[None]
        logits = model(
            input_ids=ids, past_key_values=cache, position_ids=positions, logits_to_keep=1
        ).logits
        position += ids.shape[1]
        token = int(logits[0, -1].argmax())
        if token in stops:
            break
        tokens.append(token)
        times.append(time.perf_counter() - began)
        ids = torch.tensor([[token]], device=model.device)
    end = time.perf_counter() - began
    return {
        "text": tokenizer.decode(tokens, skip_special_tokens=True),
        "read_tokens": context.shape[1] + question.shape[1],
        "positions": context.shape[1] + question.shape[1],
        "new_tokens": len(tokens),
        "first_token_seconds": times[0] if times else end,
        "seconds": times[-1] if times else end,
        "kv_bytes": sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers),
        "peak_bytes": _peak_bytes(model.device),
    }


def _encode(
    tokenizer: "PreTrainedTokenizerBase", text: str, device: "torch.device"
) -> "torch.Tensor":
    """Returns the token ids of a text, [1, T]."""
    encoded = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    return encoded["input_ids"].to(device)


def _stop_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    stops = model.generation_config.eos_token_id
    if not isinstance(stops, list):
        stops = [stops]
    return {*stops, tokenizer.eos_token_id}


def _peak_bytes(device: "torch.device") -> int:
    """Returns the most memory in use so far; 0 where the system does not keep it."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def _say(said: TextIO, value: dict[str, object]) -> None:
    said.write(json.dumps(value) + "\n")
    said.flush()


if __name__ == "__main__":
    # What libraries print is no reply.
    replies = sys.stdout
    sys.stdout = sys.stderr
    main(sys.stdin, replies)
