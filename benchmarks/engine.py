"""What steps of several rows cost, in one run.

    python benchmarks/engine.py --out benchmarks/results/engine_cpu-2cores_DATE.json

- rows: tokens a second of 1, 4 and 8 rows of unlike length, by the engine and as one padded batch,
  which takes its steps out of one cache under a mask.
- adapters: milliseconds of a forward over 1, 4 and 8 single tokens, without adapters and with three
  that take turns: by hooks as the engine does it, by PEFT's `adapter_names`, and in one forward for
  each adapter.

All ways are measured in turn (A B A B ...); medians are reported.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

import longreach as lr
from longreach.engine.adapters import adapted
from longreach.engine.engine import Engine
from longreach.engine.request import Request
from longreach.engine.sampling import Sampling
from longreach.models.decoder import adapter_layers, add_adapter, only_adapter
from longreach.models.machine import record
from longreach.models.sharing import exclusive
from longreach.models.steps import Steps

ROWS = (1, 4, 8)
ADAPTERS = 3


def main() -> None:
    """Measures both, prints the report and writes it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2", help="What `longreach.load` takes.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512, help="Positions of the longest prompt.")
    parser.add_argument("--tokens", type=int, default=25, help="New tokens of each row.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model, _ = lr.load(options.model)
    report = record(["benchmarks/engine.py", *sys.argv[1:]], model.device)
    report |= {
        "model": options.model,
        "dtype": str(model.dtype),
        "torch_threads": torch.get_num_threads(),
        "rows": measure_rows(model, options.prompt, options.tokens, options.repeats),
    }
    report["adapters"] = measure_adapters(model, options.model, options.repeats)
    text = json.dumps(report, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


def measure_rows(model: Any, longest: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Returns the tokens a second of rows that write together, in both ways."""
    results: dict[str, Any] = {}
    for count in ROWS:
        lengths = [longest * (count - row) // count for row in range(count)]
        prompts: list[Tensor] = []
        for length in lengths:
            ids = torch.arange(1000, 1000 + length, device=model.device)
            prompts.append(model.get_input_embeddings()(ids).detach())
        ways = {
            "engine": partial(time_engine, model, prompts, tokens),
            "padded batch": partial(time_padded, model, prompts, tokens),
        }
        rates = in_turn(ways, repeats)
        pairs = zip(rates["engine"], rates["padded batch"], strict=True)
        results[str(count)] = {
            "prompt_positions": lengths,
            "tokens_per_second": {way: statistics.median(taken) for way, taken in rates.items()},
            "engine_over_padded": statistics.median(engine / padded for engine, padded in pairs),
            "all": rates,
        }
    return results


def time_engine(model: Any, prompts: list[Tensor], tokens: int) -> float:
    """Returns tokens a second, once every row has its first one."""
    engine = Engine(model, chunk_tokens=4096)
    with exclusive(model):  # so that all are there before the first step
        handles = [engine.submit(Request(embeds, Sampling(tokens))) for embeds in prompts]
    for handle in handles:
        next(iter(handle))
    before = sum(len(handle.tokens) for handle in handles)
    began = time.perf_counter()
    written = sum(len(handle.result().tokens) for handle in handles)
    seconds = time.perf_counter() - began
    engine.close()
    return (written - before) / seconds


def time_padded(model: Any, prompts: list[Tensor], tokens: int) -> float:
    """Returns tokens a second of the same rows as one batch, padded on the left."""
    longest = max(map(len, prompts))
    padded = [torch.nn.functional.pad(one, (0, 0, longest - len(one), 0)) for one in prompts]
    padding = torch.tensor([longest - len(one) for one in prompts], device=model.device)
    mask = (torch.arange(longest, device=model.device)[None] >= padding[:, None]).long()
    steps = Steps(model, longest + tokens - 1)
    chosen = steps.read(inputs_embeds=torch.stack(padded), attention_mask=mask).argmax(-1)
    began = time.perf_counter()
    for _ in range(tokens - 1):
        chosen = steps.step(chosen).argmax(-1)
        chosen.tolist()
    return len(prompts) * (tokens - 1) / (time.perf_counter() - began)


def measure_adapters(model: Any, ref: str, repeats: int) -> dict[str, Any]:
    """Returns the milliseconds of a forward over rows with adapters of their own."""
    with tempfile.TemporaryDirectory() as folder:
        names = [add_random_adapter(model, ref, Path(folder) / str(n), n) for n in range(ADAPTERS)]
    results: dict[str, Any] = {"layers": len(adapter_layers(model)), "rank": 16}
    for count in ROWS:
        order = sorted(names[row % ADAPTERS] for row in range(count))
        ways = {
            "none": partial(time_forward, model, count),
            "hooks": partial(time_hooks, model, order),
            "adapter_names": partial(time_adapter_names, model, order),
            "groups": partial(time_groups, model, order),
        }
        taken = in_turn(ways, 3 * repeats)
        results[str(count)] = {way: statistics.median(times) for way, times in taken.items()}
    return results


def add_random_adapter(model: Any, ref: str, folder: Path, seed: int) -> str:
    """Lays a random LoRA of all linear layers over the model and returns its name."""
    torch.manual_seed(seed)
    config = LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False)
    donor = get_peft_model(lr.load(ref)[0], config)
    donor.save_pretrained(folder, save_embedding_layers=False)
    return add_adapter(model, folder)


@torch.no_grad()
def time_forward(model: Any, rows: int) -> float:
    """Returns the milliseconds of a forward over one token a row."""
    began = time.perf_counter()
    model(input_ids=torch.zeros(rows, 1, dtype=torch.long, device=model.device), use_cache=False)
    return 1000 * (time.perf_counter() - began)


def time_hooks(model: Any, names: list[str]) -> float:
    """Returns the milliseconds of a forward as the engine takes it."""
    began = time.perf_counter()
    with adapted(model, names):
        time_forward(model, len(names))
    return 1000 * (time.perf_counter() - began)


def time_adapter_names(model: Any, names: list[str]) -> float:
    """Returns the milliseconds of a forward with PEFT's own mixed batches."""
    began = time.perf_counter()
    with only_adapter(model, names[0]), told(model, names):
        time_forward(model, len(names))
    return 1000 * (time.perf_counter() - began)


@contextmanager
def told(model: Any, names: list[str]) -> Iterator[None]:
    """Tells each adapter layer the adapters of the rows, as `PeftModel` does."""

    def add_names(module: Any, inputs: Any, options: Any) -> Any:
        return inputs, {**options, "adapter_names": names}

    hooks = []
    for layer in adapter_layers(model):
        hooks.append(layer.register_forward_pre_hook(add_names, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def time_groups(model: Any, names: list[str]) -> float:
    """Returns the milliseconds of one forward for each adapter."""
    began = time.perf_counter()
    for name in dict.fromkeys(names):
        with only_adapter(model, name):
            time_forward(model, names.count(name))
    return 1000 * (time.perf_counter() - began)


def in_turn(ways: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Returns what each way measures, once each in turn after one turn that warms up."""
    measured: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way, measure in ways.items():
            value = measure()
            if turn:
                measured[way].append(value)
    return measured


if __name__ == "__main__":
    main()
