"""A weighted pool as it ships in `models/`: the adapter in bfloat16, and which ratio is taken where none is asked for.

    python recipes/ship.py FOLDER models/NAME --ratio 8 [--default]

FOLDER is what `longreach pretrain --method weighted-pool` made. The model card is written by hand.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "adapter_model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ratio", type=int, required=True)
    parser.add_argument("--default", action="store_true", help="what ingest takes for this model")
    given = parser.parse_args()
    shutil.copytree(given.folder / "reader", given.out / "reader", dirs_exist_ok=True)
    shutil.copy(given.folder / "compressor.safetensors", given.out)
    weights = load_file(given.folder / "reader" / WEIGHTS)
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items()}
    save_file(halved, given.out / "reader" / WEIGHTS, {"format": "pt"})
    settings = json.loads((given.folder / "compressor.json").read_text()) | {"ratio": given.ratio}
    settings |= {"default": True} if given.default else {}
    (given.out / "compressor.json").write_text(json.dumps(settings, indent=2) + "\n")


if __name__ == "__main__":
    main()
