"""A hybrid that finds needles: full layers by measurement, then training that asks for far reading.

    python recipes/longgen.py smollm2 novels/ OUT                      # one core
    python recipes/longgen.py llama3-8b novels/ OUT --gpus 8           # eight GPUs, FSDP2
    python recipes/longgen.py qwen3-8b novels/ OUT --dry-run           # prints the commands
    python recipes/longgen.py llama3-8b novels/ OUT --model FOLDER --scale 16 --steps 2

The commands are `longreach convert` and `longreach extend`; both resume. `--scale N` divides all
lengths by N and takes the pattern's blocks of 8 tokens, to try a recipe on a tiny model.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

RECIPES = Path(__file__).parent


class Recipe(NamedTuple):
    """What is trained, and how.

    Attributes:
        model: What `longreach.load` takes.
        full_layers: Of `longreach convert`: indices, a number, or "middle-third".
        window: Tokens that the hybrid reads.
        lengths: Of rows, with their shares of the run in order.
        windows: Local windows that are drawn while training.
        steps: Of the optimizer.
        batch_tokens: Of a step.
        options: Others of `longreach extend`.
    """

    model: str
    full_layers: str
    window: int
    lengths: tuple[tuple[int, float], ...]
    windows: tuple[int, ...]
    steps: int
    batch_tokens: int
    options: tuple[str, ...]


# Layers below the lowest full one have no backward pass, and the rest fits one core.
SMOLLM2 = Recipe(
    model="smollm2",
    full_layers="7,18,21,22,23",
    window=32768,
    lengths=((1024, 0.7), (2048, 0.3)),
    windows=(128, 256, 512),
    steps=72,
    batch_tokens=4096,
    options=("--lora-rank", "16", "--dtype", "bfloat16", "--no-checkpointing"),
)
# Not run yet. Give the layers that `longreach layers` finds with --full-layers.
LLAMA3_8B = Recipe(
    model="meta-llama/Meta-Llama-3-8B-Instruct",
    full_layers="middle-third",
    window=131072,
    lengths=((2048, 0.5), (4096, 0.3), (16384, 0.2)),
    windows=(256, 512, 1024),
    steps=1000,
    batch_tokens=131072,
    options=("--lora-rank", "32", "--dtype", "bfloat16"),
)
RECIPES_BY_NAME = {
    "smollm2": SMOLLM2,
    "llama3-8b": LLAMA3_8B,
    "qwen3-8b": LLAMA3_8B._replace(model="Qwen/Qwen3-8B"),
}


def make_commands(recipe: Recipe, given: argparse.Namespace) -> list[list[str]]:
    """Returns the commands of a recipe, as lists of words."""
    scale = given.scale
    start = [sys.executable, "-m", "longreach.cli"]
    launch = start
    if given.gpus == 1:
        launch = [*_accelerate("one_gpu"), *start[1:]]
    elif given.gpus > 1:
        launch = [*_accelerate("fsdp2_8_gpus"), "--num_processes", str(given.gpus), *start[1:]]
    hybrid = f"{given.out}-start"
    small = ["--block-size", "8"] if scale > 1 else []
    convert = [
        *(*start, "convert", given.model or recipe.model, hybrid, *small),
        *("--full-layers", given.full_layers or recipe.full_layers),
        *("--max-length", str(recipe.window // scale)),
    ]
    lengths = [(length // scale, share) for length, share in recipe.lengths]
    longest = max(length for length, _ in lengths)
    extend = [
        *(*launch, "extend", hybrid, *given.data, given.out, "--length", str(longest)),
        *("--asks", str(given.asks), "--train-layers", "full"),
        *("--lengths", ",".join(f"{length}:{share}" for length, share in lengths)),
        *("--windows", ",".join(str(window // scale) for window in recipe.windows)),
        *("--learning-rate", "1.5e-4", "--warmup", "0.05"),
        *("--steps", str(given.steps or recipe.steps)),
        *("--batch-tokens", str(recipe.batch_tokens // scale), "--held-out", "2"),
        *recipe.options,
    ]
    # One command makes the hybrid, and is not needed where an earlier call has made it.
    return [extend] if (Path(hybrid) / "config.json").exists() else [convert, extend]


def _accelerate(name: str) -> list[str]:
    file = RECIPES / f"{name}.yaml"
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]


def main() -> None:
    """Runs the commands of a recipe, or prints them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", choices=RECIPES_BY_NAME)
    parser.add_argument("data", nargs="+", help="texts that stand around facts, and plain rows")
    parser.add_argument("out", help="the folder of the run")
    parser.add_argument("--model", help="instead of the recipe's")
    parser.add_argument("--full-layers", help="instead of the recipe's")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--asks", type=float, default=0.5, help="share of rows that ask")
    parser.add_argument("--gpus", type=int, default=0, help="0 for a CPU")
    parser.add_argument("--scale", type=int, default=1, help="divides all lengths")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    given = parser.parse_args()
    environment = os.environ | ({} if given.gpus else {"CUDA_VISIBLE_DEVICES": ""})
    for command in make_commands(RECIPES_BY_NAME[given.recipe], given):
        print(shlex.join(command), flush=True)
        if not given.dry_run:
            subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
