"""What is measured, and what of it is refused.

Imports no torch, so that a command checks its options first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from longreach.errors import UsageError
from longreach.kernels.registry import backend_names

ATTENTION = ("forward", "train", "decode")
MODEL = ("prefill", "decode", "train")
DECODE_WARM_UP = 3
"""Steps of decode that come before those that count."""


def check_source(shape: str | None, model: str | None) -> None:
    """Raises UsageError unless exactly one is given."""
    if (shape is None) == (model is None):
        raise UsageError("Give either a shape, such as llama2-7b, or a model to load.")


def check_attention(
    what: str, impls: Sequence[str] | None, *, length: int, rows: int, repeats: int, layer: int
) -> None:
    """Raises UsageError where a case of `bench attention` cannot be measured.

    Arguments as in `attention.AttentionCase`.
    """
    for name, value in (("length", length), ("rows", rows), ("repeats", repeats)):
        if value < 1:
            raise UsageError(f"{name} is {value}; give at least 1.")
    if layer < 0:
        raise UsageError(f"layer is {layer}; give at least 0.")
    if what not in ATTENTION:
        raise UsageError(
            f"There is nothing called {what!r} to measure; choose one of {', '.join(ATTENTION)}."
        )
    known = backend_names()
    # None leaves the choice to the device; an empty list would measure nothing but the baseline.
    if impls is not None and not impls:
        raise UsageError(f"Name at least one implementation: {', '.join(known)}.")
    for impl in impls or ():
        if impl not in known:
            raise UsageError(
                f"There is no implementation {impl!r}; choose from {', '.join(known)}."
            )


@dataclass(frozen=True)
class ModelCase:
    """What `bench model` measures.

    Attributes:
        length: Tokens of each row.
        what: Any of "prefill", "decode" and "train", in the order in which they are to run.
        rows: Rows of the batch.
        repeats: Rounds of prefill and train.
        new_tokens: Steps of decode.
        flex: Measure the hybrid with FlexAttention in its sparse layers too (not in decode, which
            it cannot do).
        graphs: Decode with CUDA graphs, without, or (None) both where there is a GPU.
        compile: Decode through torch.compile.
    """

    length: int
    what: Sequence[str] = MODEL
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
            if one not in MODEL:
                raise UsageError(
                    f"There is nothing called {one!r} to measure; choose from {', '.join(MODEL)}."
                )
        if "train" in self.what and self.length < 2:
            raise UsageError(
                f"length is {self.length}; training predicts the next token, so give at least 2."
            )
        if not self.what:
            raise UsageError(f"Name at least one thing to measure: {', '.join(MODEL)}.")

    @property
    def window(self) -> int:
        """Returns how many tokens a model has to take for all of it."""
        # Steps that do not count write to the cache as well.
        return self.length + DECODE_WARM_UP + self.new_tokens


@dataclass(frozen=True)
class FinetuneCase:
    """What `bench finetune` measures.

    Attributes:
        length: Tokens of a document.
        ratio: Tokens that a vector stands for.
        qa_tokens: Tokens of a question and its answer.
        rows: Documents of a step.
        repeats: Rounds that count.
    """

    length: int = 8192
    ratio: int = 30
    qa_tokens: int = 64
    rows: int = 1
    repeats: int = 3

    def __post_init__(self) -> None:
        for name in ("length", "ratio", "qa_tokens", "rows", "repeats"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; give at least 1.")
        if self.ratio > self.length:
            raise UsageError(
                f"ratio is {self.ratio}; give at most the length, {self.length}, which is one"
                " vector."
            )

    @property
    def whole(self) -> int:
        """Returns the tokens of a document with its question and answer."""
        return self.length + self.qa_tokens

    @property
    def window(self) -> int:
        """Returns how many positions a model has to take."""
        # While a document is compressed it stands before at most as many vectors.
        return self.whole + self.length
