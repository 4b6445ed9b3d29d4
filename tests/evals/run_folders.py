"""Folders as `longreach eval` leaves them, with answers that were made up: what a report is tested on."""

import json
import math
import random
from statistics import fmean

from longreach.evals.scores.overlap import SCORING

QUALITY = {"full": 0.9, "hybrid": 0.8, "sink-window": 0.25}
"""How often the readers of the length suites are right."""
DOCQA = {  # score, positions, seconds
    "none": (0.06, 60, 0.4),
    "truncated": (0.14, 512, 1.1),
    "bm25": (0.31, 512, 1.1),
    "mean-pool": (0.09, 140, 0.6),
    "compressed": (0.27, 140, 0.6),
    "mixed": (0.38, 512, 1.2),
    "full": (0.40, 3600, 9.5),
}
COSTS = {"ingest_seconds": 240.0, "study_seconds": 1500.0}
MEASURES = ("positions", "read_tokens", "first_token_seconds", "seconds", "kv_bytes", "peak_bytes")


def write_run(folder, suite, readers, lines, rows=None, **changes):
    """Writes a run; `rows` None leaves it unfinished, `changes` go into run.json."""
    folder.mkdir(parents=True)
    record = {
        "suite": suite,
        "settings": {"samples": 10, "lengths": sorted({line.get("length", 0) for line in lines}), "batch_size": 1},
        "seed": 42,
        "samples": len({line["task"] if suite == "perplexity" else line["id"] for line in lines}),
        "samples_digest": f"{suite}-0123456789abcdef",
        "readers": readers,
        "versions": {"longreach": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "hardware": {"device": "cpu", "processor": "AMD EPYC", "cores": 2, "threads": 2},
        "command": f"longreach eval {suite} smollm2 --readers {','.join(readers)} --samples 10",
        "started": "2026-11-22T20:00:00+00:00",
        "longreach_run": 1,
    }
    (folder / "run.json").write_text(json.dumps(record | changes))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if rows is not None:
        (folder / "scores.json").write_text(json.dumps({"scoring": SCORING, "rows": rows}))
    return folder


def identities(names, model="aaaa"):
    return {name: {"model_fingerprint": model, "pattern": name} for name in names}


def _line(chance, suite, task, reader, number, length, quality, positions, seconds, tags=()):
    return {
        "reader": reader,
        "suite": suite,
        "task": task,
        "id": f"{task}-{length}-{number}",
        "document": f"book {number % 3}",
        "length": length,
        "tags": dict(tags),
        "question": "Which number?",
        "answers": ["1234567"],
        "prediction": "1234567",
        "metric": "f1" if suite == "docqa" else "all",
        "scoring": SCORING,
        "score": float(chance.random() < quality) if suite != "docqa" else min(1.0, chance.random() * 2 * quality),
        "read_tokens": positions,
        "positions": positions,
        "new_tokens": 12,
        "first_token_seconds": seconds * (0.95 + chance.random() / 10),
        "seconds": seconds * 1.2,
        "kv_bytes": positions * 23040 // (3 if reader == "hybrid" else 1),
        "peak_bytes": 600 * 2**20 + positions * 40000,
    }


def length_lines(suite, tasks=("uuid",), lengths=(1024, 2048, 4096), readers=QUALITY):
    """Predictions of a suite by length: for every depth two, which a far needle makes harder for a short window."""
    chance, depths = random.Random(7), (0, 25, 50, 75, 100)
    lines = []
    for reader in readers:
        for task in tasks:
            for length in lengths:
                for number in range(2 * len(depths)):
                    depth = depths[number // 2]
                    near = reader != "sink-window" or depth in (0, 100)
                    quality = QUALITY[reader] if near else 0.05
                    seconds = (length / 1024) ** (1.6 if reader == "full" else 1.2) * 0.6
                    tags = {"depth": depth} if suite == "niah" else {}
                    lines.append(
                        _line(chance, suite, task, reader, number, length, quality, length - 40, seconds, tags)
                    )
    return lines


def docqa_lines(tasks, readers=DOCQA, count=12):
    chance = random.Random(8)
    return [
        _line(chance, "docqa", task, reader, number, 0, *DOCQA[reader])
        for reader in readers
        for task in tasks
        for number in range(count)
    ]


def rows_of(lines):
    """Rows of scores.json: every reader, task and length, and means over tasks where there are several."""
    groups = {}
    for line in lines:
        groups.setdefault((line["reader"], line["length"]), {}).setdefault(line["task"], []).append(line)
    rows = []
    for (reader, length), tasks in groups.items():
        means = {"mean": [line for own in tasks.values() for line in own]} if len(tasks) > 1 else {}
        for task, own in (tasks | means).items():
            score = 100 * fmean(line["score"] for line in own)
            row = {"reader": reader, "task": task, "length": length, "metric": own[0]["metric"], "samples": len(own)}
            row |= {"score": score, "low": max(0.0, score - 7.25), "high": min(100.0, score + 6.5)}
            rows.append(
                row | {name: fmean(line[name] for line in own) for name in MEASURES} | {"tokens_per_second": 9.5}
            )
    return rows


def length_run(folder, suite="niah", finished=True, **changes):
    kept = {key: changes.pop(key) for key in ("tasks", "lengths", "readers") if key in changes}
    lines = length_lines(suite, **kept)
    readers = changes.pop("identities", identities(dict.fromkeys(line["reader"] for line in lines)))
    return write_run(folder, suite, readers, lines, rows_of(lines) if finished else None, **changes)


def docqa_run(folder, costs=COSTS, tasks=("fairytaleqa", "qmsum"), **changes):
    lines = docqa_lines(tasks)
    readers = identities(DOCQA)
    for name in readers:
        readers[name] |= {"adapter": "lora-1"}
        readers[name] |= costs if name.startswith(("mean-pool", "compressed", "mixed")) else {}
    return write_run(folder, "docqa", readers, lines, rows_of(lines), **changes)


def perplexity_run(folder, finished=True, **changes):
    buckets, lines = ((0, 1024), (1024, 2048), (2048, 4096), (4096, 8192)), []
    for reader, far in (("full", 900.0), ("hybrid", 17.5), ("sink-window", 19.0)):
        for document in ("alice", "frankenstein"):
            for number, (start, stop) in enumerate(buckets):
                perplexity = 21.0 - number if number < 3 else far
                tokens = stop - start
                line = {"reader": reader, "suite": "perplexity", "task": document, "id": f"{document}/{start}"}
                lines.append(line | {"bucket": [start, stop], "tokens": tokens, "nll": tokens * math.log(perplexity)})
    rows = [
        {
            "reader": line["reader"],
            "task": "perplexity",
            "bucket": line["bucket"],
            "tokens": 2 * line["tokens"],
            "perplexity": math.exp(line["nll"] / line["tokens"]),
        }
        for line in lines
        if line["task"] == "alice"
    ]
    readers = identities(dict.fromkeys(line["reader"] for line in lines))
    return write_run(folder, "perplexity", readers, lines, rows if finished else None, **changes)
