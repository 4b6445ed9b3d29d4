"""What `benchmarks/evidence.py` runs: how many samples of what on which device, and how long that
may take."""

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

from longreach.compressors.registry import default_compressor
from longreach.compressors.shipped import resolve_folder
from longreach.corpus.schema import READER

TEXTS = ("niah", "ruler", "babilong", "perplexity")
DOCUMENTS = {"fairytaleqa": 2500, "qmsum": 12000, "squality": 7000}  # tokens of a document, about
WINDOW = 8192  # of SmolLM2: longer documents are read in part only, but by a trained hybrid
DATA = {"ruler": ("qa_1", "qa_2"), "babilong": ("babi",), "perplexity": ("texts",)}
ANSWER = {"niah": 32, "ruler": 100, "babilong": 20, "perplexity": 0}  # tokens, of RULER on average

_FEW = "niah_single_1,niah_multikey_1,vt,fwe"
_FAR: dict[str, Any] = {"lengths": "4096,8192,16384,32768", "batch_size": 16, "beyond_window": True}
PLANS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {
        "niah": {"lengths": "1024,4096", "depths": 3, "samples": 1},
        "ruler": {"lengths": "1024", "tasks": _FEW, "samples": 1},
        "babilong": {"lengths": "1024", "samples": 1},
        "perplexity": {"lengths": "4096", "samples": 1},
        "fairytaleqa": {"samples": 2, "max_new_tokens": 32},
        "qmsum": {"samples": 1, "max_new_tokens": 64},
        "squality": {"samples": 1, "max_new_tokens": 64},
    },
    "cpu": {
        "niah": {"lengths": "1024,2048,4096", "depths": 11, "samples": 1},
        "ruler": {"lengths": "4096", "samples": 2},
        "babilong": {"lengths": "4096", "samples": 4},
        "perplexity": {"lengths": "4096", "samples": 4},
        "fairytaleqa": {"samples": 20},
        "qmsum": {"samples": 5, "max_new_tokens": 128},
        "squality": {"samples": 4, "max_new_tokens": 192},
    },
    "cuda": {
        "niah": {**_FAR, "depths": 11, "samples": 5},
        "ruler": {**_FAR, "samples": 500},
        "babilong": {**_FAR, "samples": 100},
        "perplexity": {"lengths": "32768", "beyond_window": True},
        "fairytaleqa": {"batch_size": 16},
        "qmsum": {"batch_size": 16},
        "squality": {"batch_size": 16},
    },
}
"""Options of `longreach eval` for each suite and set of documents; on a CPU as many samples as the
time allows."""

SECONDS_TO_READ, SECONDS_TO_WRITE, SECONDS_TO_START = (1.4, 0.6), 0.06, 10
"""Of SmolLM2 in bfloat16 on one idle core: 1.4 k + 0.6 k^2 for k thousand tokens of a prompt; a
token of an answer; the model. The first two were measured as processor time (1.3 s for 1K, 11.5 s
for 4K) and are rounded up."""


class Step(NamedTuple):
    """One run: its folder's name, the words behind `longreach`, and how long it may take; None
    where nobody knows."""

    name: str
    words: list[str]
    seconds: float | None


def steps(given: argparse.Namespace) -> tuple[list[Step], dict[str, str]]:
    """What is to be run, and what is left out and why."""
    data, found, left_out = given.data, list[Step](), dict[str, str]()
    for part, options in PLANS["quick" if given.quick else given.device].items():
        suite = "docqa" if part in DOCUMENTS else part
        wanted = (part,) if part in DOCUMENTS else () if "tasks" in options else DATA.get(part, ())
        # Such stories can be made up.
        missing = [name for name in wanted if name not in data and name != "babi"]
        if missing and part not in ("niah", "ruler", "babilong"):
            left_out[part] = f"give --data {missing[0]}=PATH"
            continue
        left_out |= {f"{part} {name}": f"give --data {name}=PATH" for name in missing}
        words = [
            f"--{key.replace('_', '-')}" + f"={value}" * (value is not True)
            for key, value in options.items()
        ]
        words += [f"--device={given.device}", "--dtype=bfloat16"]
        words += [
            f"--data={'' if name == 'texts' else name + '='}{data[name]}"
            for name in wanted
            if name in data
        ]
        if given.haystack and suite in ("niah", "ruler", "babilong"):
            words.append(f"--haystack={given.haystack}")
        name, systems = (part if suite == part else f"{suite}-{part}"), _systems(suite, given)
        chosen = (
            [f"--compressor={given.compressor}"] if suite == "docqa" and given.compressor else []
        )
        whole = [f"--systems={','.join(systems)}", *chosen]
        found.append(
            Step(
                name,
                ["eval", suite, given.model, *words, *whole],
                _seconds(given, part, options, systems),
            )
        )
        if given.hybrid:
            seconds = _seconds(given, part, options, ("trained",))
            found.append(
                Step(
                    f"{name}-trained",
                    ["eval", suite, given.hybrid, *words, "--systems=hybrid"],
                    seconds,
                )
            )
    return found, left_out


def _systems(suite: str, given: argparse.Namespace) -> tuple[str, ...]:
    """Of documents also the ways of reading a part; mean pooling once, where it is the compressor
    itself.

    What a compressor's own adapter does for text, and for no text at all, is asked as well.
    """
    if suite != "docqa":
        return "full", "hybrid", "sink-window"
    compressor = given.compressor or default_compressor(given.model)
    vectors = ("mean-pool",) if compressor == "mean-pool" else ("mean-pool", "compressed")
    adapted = (
        ("none+adapter", "bm25+adapter") if (resolve_folder(compressor) / READER).is_dir() else ()
    )
    return "full", "hybrid", "none", "truncated", "bm25", *vectors, "mixed", *adapted


def _seconds(
    given: argparse.Namespace, part: str, options: Mapping[str, Any], systems: tuple[str, ...]
) -> float | None:
    """Those on one idle core, as if every way of attending took what full attention takes."""
    if given.device != "cpu":
        return None

    def reading(tokens: float) -> float:
        once, square = SECONDS_TO_READ
        return once * tokens / 1024 + square * (tokens / 1024) ** 2

    if part in DOCUMENTS:
        tokens = DOCUMENTS[part]
        few = set(systems) - {"full", "hybrid", "trained"}
        whole = [
            system
            for system in systems
            if system not in few and (tokens <= WINDOW or system == "trained")
        ]
        asked = len(whole) * reading(tokens) + len(few) * reading(640)
        written = (len(whole) + len(few)) * SECONDS_TO_WRITE * options.get("max_new_tokens", 64)
        compressed = 2 * reading(1024) * tokens / 1024 if few else 0.0
        return SECONDS_TO_START + options["samples"] * (asked + written + compressed)
    tasks = {"niah": 1, "ruler": 13, "babilong": 5, "perplexity": 1}[part]
    if "tasks" in options:
        tasks = len(options["tasks"].split(","))
    prompts = len(systems) * tasks * options["samples"] * options.get("depths", 1)
    lengths = [int(length) for length in options["lengths"].split(",")]
    return SECONDS_TO_START + prompts * sum(
        reading(length) + SECONDS_TO_WRITE * ANSWER[part] for length in lengths
    )
