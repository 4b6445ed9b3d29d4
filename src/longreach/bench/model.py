"""A whole model, full against hybrid, around the same weights and in the same run: prompts, steps, training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from longreach.bench.decode import decode
from longreach.bench.prefill import prefill
from longreach.bench.subject import Subject
from longreach.bench.timing import Progress
from longreach.bench.train import train
from longreach.errors import UsageError

WHAT = ("prefill", "decode", "train")


@dataclass(frozen=True)
class ModelCase:
    """What is measured.

    Attributes:
        length: Tokens of each row.
        what: Any of "prefill", "decode" and "train", in the order in which they are to run.
        rows: Rows of the batch.
        repeats: Rounds of prefill and train.
        new_tokens: Steps of decode.
        flex: Measure the hybrid with FlexAttention in its sparse layers too (not in decode, which it cannot do).
        graphs: Decode with CUDA graphs, without, or (None) both where there is a GPU.
        compile: Decode through torch.compile.
    """

    length: int
    what: Sequence[str] = WHAT
    rows: int = 1
    repeats: int = 3
    new_tokens: int = 32
    flex: bool = False
    graphs: bool | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("length", "rows", "repeats", "new_tokens"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; give at least 1.")
        for one in self.what:
            if one not in WHAT:
                raise UsageError(f"There is nothing called {one!r} to measure; choose from {', '.join(WHAT)}.")
        if "train" in self.what and self.length < 2:
            raise UsageError(f"length is {self.length}; training predicts the next token, so give at least 2.")
        if not self.what:
            raise UsageError(f"Name at least one thing to measure: {', '.join(WHAT)}.")

    @property
    def window(self) -> int:
        """Tokens that a model has to take for all of it."""
        return self.length + self.new_tokens


def run(case: ModelCase, subject: Subject, progress: Progress = lambda text: None) -> dict[str, Any]:
    """Measures everything the case names; see the three modules for what each report holds."""
    torch.manual_seed(0)
    notes: list[str] = []
    if subject.shape.layers < subject.of_layers:
        notes.append(
            f"a slice: {subject.shape.layers} of {subject.of_layers} layers, {len(subject.layers.full)} of them full "
            f"(of {subject.of_full_layers} in the whole model), with all of the embeddings and the head"
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
    for one in dict.fromkeys(case.what):
        progress(f"{one} of {subject.source}, {case.rows} x {case.length:,} tokens")
        if subject.device.type == "cuda":
            torch.cuda.empty_cache()
        if one == "prefill":
            report[one] = prefill(*common, case.repeats, case.flex, notes, progress)
        elif one == "train":
            report[one] = train(*common, case.repeats, case.flex, notes, progress)
        else:
            report[one] = decode(*common, case.new_tokens, case.graphs, case.compile, notes, progress)
            if case.flex:
                notes.append("decode: flex left out: it reads no compact cache")
    return report | {"notes": notes}
