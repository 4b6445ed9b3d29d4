"""What was trained, as it ships in `models/`: adapters in bfloat16, and no path of the machine that
trained them.

    python recipes/ship.py FOLDER models/NAME --ratio 8 [--default]
    python recipes/ship.py FOLDER models/NAME --base smollm2

FOLDER is what `longreach pretrain --method weighted-pool` made, and N the ratio taken where none is
asked for; or, with `--base`, a hybrid that `longreach extend` made of that model with a LoRA. The
model card is written by hand.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--ratio", type=int, metavar="N", help="of a weighted pool")
    kind.add_argument(
        "--base", help="of a hybrid: what `longreach.load` takes for the model below the adapter"
    )
    parser.add_argument("--default", action="store_true", help="what ingest takes for this model")
    given = parser.parse_args()
    if given.base:
        adapter(given.folder / "adapter", given.out, given.base)
        shutil.copy(given.folder / "config.json", given.out)
        return
    adapter(given.folder / "reader", given.out / "reader")
    shutil.copy(given.folder / "compressor.safetensors", given.out)
    settings = json.loads((given.folder / "compressor.json").read_text()) | {"ratio": given.ratio}
    settings |= {"default": True} if given.default else {}
    (given.out / "compressor.json").write_text(json.dumps(settings, indent=2) + "\n")


def adapter(folder: Path, out: Path, base: str | None = None) -> None:
    """A PEFT adapter's files, the weights in bfloat16."""
    # PEFT's empty form.
    shutil.copytree(folder, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("README.md"))
    weights = {
        name: tensor.to(torch.bfloat16) for name, tensor in load_file(folder / WEIGHTS).items()
    }
    save_file(weights, out / WEIGHTS, {"format": "pt"})
    settings = json.loads((folder / SETTINGS).read_text())
    settings |= {"base_model_name_or_path": base} if base else {}
    (out / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
