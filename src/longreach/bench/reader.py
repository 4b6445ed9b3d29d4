"""What compressing, asking and starting cost beside the bare model, in one run.

Every ratio pairs our time with the bare model's, measured in turn (A B A B ...); medians are
reported.
- compression: the bare decoder (no LM head) on the same segments and batch, over `compress`; the
  goal is >= 0.90.
- first token: from `ask` to the first token with nothing cached, over one bare prefill of as many
  positions; the goal is <= 2.0. With the context hot, the same ratio says what the cache saves.
- start: `import longreach` and `longreach --help` as whole processes; the goal is < 0.3 s, without
  torch.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from longreach.bench.timing import Progress, Result, measure, wait
from longreach.compressors.autocompressor.compressor import AutoCompressor
from longreach.compressors.mean_pool import MeanPool
from longreach.corpus.store import Corpus
from longreach.engine.rows import read_prefix
from longreach.engine.sampling import Sampling
from longreach.errors import UsageError
from longreach.jsontext import JsonObject, read_field
from longreach.models.decoder import decoder_of
from longreach.reading.policy import Policy
from longreach.reading.reader import Reader
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


QUESTIONS = (
    "What did the label on the bottle that Alice found say?",
    "Which animal smokes a hookah on a mushroom?",
    "What is strange about the Hatter's watch?",
    "Who stole the tarts?",
    "What game does the Queen play?",
)
GOALS = {"compression": 0.90, "first_token": 2.0, "start_seconds": 0.3}
_LEAST_TOKENS = 3072  # two segments of 1,536


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: Path,
    repeats: int,
    progress: Progress = lambda text: None,
) -> JsonObject:
    """Measures all three.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        text: A text of at least 3,072 tokens.
        repeats: Pairs behind each median.
        progress: Is told how far it is.

    Raises:
        UsageError: The text is missing or too short, or repeats is below 1.
    """
    if repeats < 1:
        raise UsageError(f"repeats is {repeats}; give at least 1.")
    if not text.is_file():
        raise UsageError(
            f"There is no file '{text}'; give a text of at least {counted(_LEAST_TOKENS, 'token')}"
            " with --text."
        )
    ids = tokenizer(text.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    if len(ids) < _LEAST_TOKENS:
        raise UsageError(
            f"'{text}' has {counted(len(ids), 'token')}; give a text of at least {_LEAST_TOKENS:,}."
        )
    return {
        "model": str(model.config.name_or_path),
        "dtype": str(model.dtype),
        "goals": GOALS,
        "start_seconds": start(repeats, progress),
        "compression": compression(model, tokenizer, ids, repeats, progress),
        "first_token": first_token(model, tokenizer, text, repeats, progress),
    }


def compression(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[int],
    repeats: int,
    progress: Progress,
) -> dict[str, JsonObject]:
    """Each compressor beside the bare decoder on the same tokens."""
    compressors = {
        "mean-pool 240": MeanPool(model, tokenizer),
        "mean-pool 1536": MeanPool(model, tokenizer, segment_tokens=1536),
        "autocompressor independent": AutoCompressor(model, tokenizer, mode="independent"),
        "autocompressor accumulate": AutoCompressor(model, tokenizer),
    }
    results = {}
    for name, compressor in compressors.items():
        # Two segments at least, so that "accumulate" reads one of them behind the vectors of the
        # other.
        tokens = max(2 * compressor.segment_tokens, 1920)
        part = list(ids[: tokens - tokens % compressor.segment_tokens])
        batch = compressor.default_batch_size
        rows = (
            torch.tensor(part, device=model.device).view(-1, compressor.segment_tokens).split(batch)
        )
        progress(f"compressing: {name}")
        calls: dict[str, Callable[[], object]] = {
            "ours": partial(compressor.compress, [part]),
            "bare": partial(_decode_all, model, rows),
        }
        times = measure(calls, repeats, model.device)
        ours, bare = times["ours"], times["bare"]
        result: dict[str, Any] = {
            "seconds": ours.median,
            "bare_seconds": bare.median,
            "ratio": ours.speedup(bare),
            "ratios": [b / a for a, b in zip(ours.seconds, bare.seconds, strict=True)],
            "tokens": len(part),
            "batch": batch,
            "tokens_per_second": len(part) / ours.median,
        }
        # The positions that the method itself adds: summary tokens, and in this mode all earlier
        # vectors.
        extra = 0
        if isinstance(compressor, AutoCompressor):
            count, k = len(part) // compressor.segment_tokens, compressor.summary_tokens
            extra = count * k + (
                k * count * (count - 1) // 2 if compressor.mode == "accumulate" else 0
            )
        result["ratio_per_position"] = result["ratio"] * (len(part) + extra) / len(part)
        results[name] = result
    return results


@torch.no_grad()
def _decode_all(model: PreTrainedModel, rows: Sequence[torch.Tensor]) -> None:
    for row in rows:
        decoder_of(model)(input_ids=row, use_cache=False)


def first_token(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: Path,
    repeats: int,
    progress: Progress,
) -> JsonObject:
    """Returns the seconds of `ask` to the first token beside a bare prefill of as many positions.

    Both with nothing read before, and with the context hot.
    """
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus.create(folder, "book", MeanPool(model, tokenizer))
        progress("ingesting the text")
        ingest, report = _seconds(lambda: corpus.add([text]), model.device)
        sampling = Sampling(max_new_tokens=1)
        # Named, a text that shares no word with a question is read from its start.
        (document,) = report.added
        reader = {
            # Without memory for prefixes every context is read again.
            "cold": Reader(corpus, model, tokenizer, hot_bytes=0),
            "hot": Reader(corpus, model, tokenizer),
        }
        results: dict[str, Any] = {"ingest_tokens_per_second": report.tokens / ingest}
        for policy in (Policy(), Policy(compressed="document", raw=1)):
            for state in ("cold", "hot"):
                progress(f"asking: {policy.compressed}, {state}")
                pairs, positions = [], []
                # Whole rounds of the questions, and at least one more than `repeats`: the first
                # is dropped.
                for question in QUESTIONS * (1 + repeats // len(QUESTIONS)):
                    ask = partial(
                        reader[state].ask,
                        question,
                        document=document,
                        policy=policy,
                        sampling=sampling,
                    )
                    # This call leaves the context in the cache, so that the next one, which is
                    # timed, finds it.
                    if state == "hot":
                        ask()
                    ours, answer = _seconds(ask, model.device)
                    count = answer.usage.positions
                    # What the embeddings hold does not change the time that reading them takes.
                    embeds = torch.zeros(
                        count, model.config.hidden_size, dtype=model.dtype, device=model.device
                    )
                    bare, _ = _seconds(partial(read_prefix, model, embeds), model.device)
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


def _seconds(work: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    began = time.perf_counter()
    result = work()
    # A GPU is still at work when the call returns.
    wait(device)
    return time.perf_counter() - began, result


def start(repeats: int, progress: Progress) -> dict[str, float]:
    """Seconds of whole processes."""
    progress("starting processes")
    tool = Path(sys.executable).parent / "longreach"
    commands = {
        # A bare interpreter: the part of the other two that is not ours.
        "python": [sys.executable, "-c", "pass"],
        "import longreach": [sys.executable, "-c", "import longreach"],
        "longreach --help": [
            *([str(tool)] if tool.exists() else [sys.executable, "-m", "longreach.cli"]),
            "--help",
        ],
    }
    calls = {
        name: partial(subprocess.run, command, check=True, capture_output=True)
        for name, command in commands.items()
    }
    return {
        name: times.median for name, times in measure(calls, repeats, torch.device("cpu")).items()
    }


def lines(report: JsonObject) -> list[str]:
    """The report for people, each goal with whether it was reached."""
    found = []
    for name, value in read_field(report, "start_seconds", dict).items():
        found.append(f"{name:<34}{value:8.3f} s{_verdict(value < GOALS['start_seconds'])}")
    for name, value in read_field(report, "compression", dict).items():
        text = (
            f"{value['tokens_per_second']:8.0f} tokens/s, {value['ratio']:.2f} of the bare model's"
            " speed"
        )
        found.append(f"{name:<34}{text}{_verdict(value['ratio'] >= GOALS['compression'])}")
    for name, value in read_field(report, "first_token", dict).items():
        if isinstance(value, dict):
            took = f"{value['seconds']:8.2f} s for {value['positions']:.0f} positions"
            reached = _verdict(value["ask_over_bare"] <= GOALS["first_token"])
            found.append(
                f"{'ask, ' + name:<34}{took}, {value['ask_over_bare']:.2f}x a bare prefill{reached}"
            )
    return found


def _verdict(reached: bool) -> str:
    return "  (goal reached)" if reached else "  (goal MISSED)"
