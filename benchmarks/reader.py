"""What compressing, asking and starting cost beside the bare model, in one run.

    python benchmarks/reader.py [--repeats N] [--model REF] [--out FILE]

Every ratio pairs our time with the bare model's, measured in turn (A B A B ...); medians are reported.
- compression: the bare decoder (no LM head) on the same segments and batch, over `compress`; the goal is >= 0.90.
- first token: from `ask` to the first token with nothing cached, over one bare prefill of as many positions;
  the goal is <= 2.0. With the context hot, the same ratio says what the cache saves.
- start: `import longreach` and `longreach --help` as whole processes; the goal is < 0.3 s, without torch.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

import longreach as lr
from longreach.models.decoder import decoder_of
from longreach.models.generate import read_prefix

BOOK = Path(__file__).resolve().parents[1] / "examples" / "alice.txt"
QUESTIONS = (
    "What did the label on the bottle that Alice found say?",
    "Which animal smokes a hookah on a mushroom?",
    "What is strange about the Hatter's watch?",
    "Who stole the tarts?",
    "What game does the Queen play?",
)
GOALS = {"compression": 0.90, "first_token": 2.0, "start_seconds": 0.3}


def seconds(work):
    began = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, result


def paired(ours, bare, repeats):
    """Medians of both times and of their ratio bare / ours, after one warm-up of each."""
    ours(), bare()
    pairs = [(seconds(ours)[0], seconds(bare)[0]) for _ in range(repeats)]
    return {
        "seconds": statistics.median(a for a, _ in pairs),
        "bare_seconds": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(b / a for a, b in pairs),
        "ratios": [b / a for a, b in pairs],
    }


def compression(model, tokenizer, ids, repeats):
    compressors = {
        "mean-pool 240": lr.MeanPool(model, tokenizer),
        "mean-pool 1536": lr.MeanPool(model, tokenizer, segment_tokens=1536),
        "autocompressor independent": lr.AutoCompressor(model, tokenizer, mode="independent"),
        "autocompressor accumulate": lr.AutoCompressor(model, tokenizer),
    }
    results = {}
    for name, compressor in compressors.items():
        tokens = max(2 * compressor.segment_tokens, 1920)
        part = ids[: tokens - tokens % compressor.segment_tokens]
        batch = compressor.default_batch_size
        rows = torch.tensor(part, device=model.device).view(-1, compressor.segment_tokens).split(batch)

        def bare(rows=rows):
            with torch.no_grad():
                for row in rows:
                    decoder_of(model)(input_ids=row, use_cache=False)

        def ours(compressor=compressor, part=part):
            return compressor.compress([part])

        result = paired(ours, bare, repeats) | {"tokens": len(part), "batch": batch}
        result["tokens_per_second"] = len(part) / result["seconds"]
        # The positions that the method itself adds: summary tokens, and in this mode all earlier vectors.
        extra = 0
        if isinstance(compressor, lr.AutoCompressor):
            count, k = len(part) // compressor.segment_tokens, compressor.summary_tokens
            extra = count * k + (k * count * (count - 1) // 2 if compressor.mode == "accumulate" else 0)
        result["ratio_per_position"] = result["ratio"] * (len(part) + extra) / len(part)
        results[name] = result
    return results


def first_token(model, tokenizer, repeats):
    with tempfile.TemporaryDirectory() as folder:
        corpus = lr.Corpus.create(folder, "book", lr.MeanPool(model, tokenizer))
        ingest, report = seconds(lambda: corpus.add([BOOK]))
        sampling = lr.Sampling(max_new_tokens=1)
        reader = {"cold": lr.Reader(corpus, model, tokenizer, hot_bytes=0), "hot": lr.Reader(corpus, model, tokenizer)}
        results = {"ingest_tokens_per_second": report.tokens / ingest}
        for policy in (lr.Policy(), lr.Policy(compressed="document", raw=1)):
            for state in ("cold", "hot"):
                pairs, positions = [], []
                for question in QUESTIONS * (1 + repeats // len(QUESTIONS)):
                    if state == "hot":
                        reader["hot"].ask(question, policy=policy, sampling=sampling)
                    ours, answer = seconds(
                        lambda state=state, question=question, policy=policy: reader[state].ask(
                            question, policy=policy, sampling=sampling
                        )
                    )
                    count = answer.usage.positions
                    embeds = torch.zeros(count, model.config.hidden_size, dtype=model.dtype, device=model.device)
                    bare = seconds(lambda embeds=embeds: read_prefix(model, embeds))[0]
                    pairs.append((ours, bare))
                    positions.append(count)
                pairs, positions = pairs[1:], positions[1:]  # the first one warms up
                results[f"{policy.compressed}, {state}"] = {
                    "seconds": statistics.median(a for a, _ in pairs),
                    "bare_seconds": statistics.median(b for _, b in pairs),
                    "ask_over_bare": statistics.median(a / b for a, b in pairs),
                    "pairs": pairs,
                    "positions": statistics.median(positions),
                }
    return results


def start(repeats):
    tool = Path(sys.executable).parent / "longreach"
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "import longreach": [sys.executable, "-c", "import longreach"],
        "longreach --help": [str(tool), "--help"],
    }
    times = {name: [] for name in commands}
    for _ in range(repeats + 1):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model, tokenizer = lr.load(options.model)
    ids = tokenizer(BOOK.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
    report = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "versions": {name: metadata.version(name) for name in ("longreach", "torch", "transformers", "lancedb")},
        "model": options.model,
        "dtype": str(model.dtype),
        "goals": GOALS,
        "start_seconds": start(options.repeats),
        "compression": compression(model, tokenizer, ids, options.repeats),
        "first_token": first_token(model, tokenizer, options.repeats),
    }
    text = json.dumps(report, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    for name, value in report["start_seconds"].items():
        print(f"{name:<34}{value:8.3f} s{verdict(value < GOALS['start_seconds'])}")
    for name, value in report["compression"].items():
        text = f"{value['tokens_per_second']:8.0f} tokens/s, {value['ratio']:.2f} of the bare model's speed"
        print(f"{name:<34}{text}{verdict(value['ratio'] >= GOALS['compression'])}")
    for name, value in report["first_token"].items():
        if isinstance(value, dict):
            took = f"{value['seconds']:8.2f} s for {value['positions']:.0f} positions"
            reached = verdict(value["ask_over_bare"] <= GOALS["first_token"])
            print(f"{'ask, ' + name:<34}{took}, {value['ask_over_bare']:.2f}x a bare prefill{reached}")


def verdict(reached):
    return "  (goal reached)" if reached else "  (goal MISSED)"


if __name__ == "__main__":
    main()
