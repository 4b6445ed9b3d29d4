"""Measures a whole model, full against hybrid, around the same weights and in the same run."""

from __future__ import annotations

from typing import Any

import torch

from longreach.bench.cases import ModelCase
from longreach.bench.decode import decode
from longreach.bench.prefill import prefill
from longreach.bench.subject import BenchSubject
from longreach.bench.timing import Progress
from longreach.bench.train import train
from longreach.jsontext import JsonObject


def run(
    case: ModelCase, subject: BenchSubject, progress: Progress = lambda text: None
) -> JsonObject:
    """Returns the figures of everything that the case names.

    `bench.prefill`, `bench.decode` and `bench.train` say what each part of the report holds.
    """
    torch.manual_seed(0)
    notes: list[str] = []
    if subject.shape.layers < subject.of_layers:
        notes.append(
            f"a slice: {subject.shape.layers} of {subject.of_layers} layers,"
            f" {len(subject.layers.full)} of them full (of {subject.of_full_layers} in the whole"
            " model), with all of the embeddings and the head"
        )
    report: dict[str, Any] = {
        "bench": "model",
        **subject.describe(),
        "length_tokens": case.length,
        "rows": case.rows,
        "dtype": str(subject.dtype).removeprefix("torch."),
        "device": str(subject.device),
        "repeats": case.repeats,
    }
    common = (subject, case.length, case.rows)
    # What is named twice is measured once.
    for one in dict.fromkeys(case.what):
        progress(f"{one} of {subject.source}, {case.rows} x {case.length:,} tokens")
        # What the last one left would count as memory of this one.
        if subject.device.type == "cuda":
            torch.cuda.empty_cache()
        if one == "prefill":
            report[one] = prefill(*common, case.repeats, case.flex, notes, progress)
        elif one == "train":
            report[one] = train(*common, case.repeats, case.flex, notes, progress)
        else:
            report[one] = decode(
                *common, case.new_tokens, case.graphs, case.compile, notes, progress
            )
            if case.flex:
                notes.append("decode: flex omitted: it reads no compact cache")
    return report | {"notes": notes}
