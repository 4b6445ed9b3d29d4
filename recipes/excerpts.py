"""Passages of books, for a compressor to reproduce.

    python recipes/excerpts.py FOLDER OUT.jsonl

FOLDER holds texts. OUT gets, of each, --count passages of --words words from random places:
{"text": ...}.
"""

import argparse
import json
import random
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--words", type=int, default=180)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with given.out.open("w", encoding="utf-8") as file:
        for path in sorted(given.folder.rglob("*.txt")):
            words = path.read_text(encoding="utf-8").split()
            for _ in range(given.count):
                start = chance.randrange(max(1, len(words) - given.words))
                file.write(
                    json.dumps(
                        {"text": " ".join(words[start : start + given.words])}, ensure_ascii=False
                    )
                    + "\n"
                )


if __name__ == "__main__":
    main()
