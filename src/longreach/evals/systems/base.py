"""What every system has: a name, an identity, and answers to samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from longreach.evals.run.sample import Prediction, Sample

if TYPE_CHECKING:
    from longreach.engine.prompt import Prompt
    from longreach.engine.request import Written


class System(Protocol):
    """One way of answering samples: a model with a way of attending, or a corpus with a policy.

    A system may have more methods. `reads(sample)` says whether it is asked a sample at all;
    `prepare(folder)` is called before it is asked, with the folder of the run, and returns what
    that took, by the names of `run.folder.COSTS`; `close()` is called after its last answer.

    Attributes:
        name: How tables call it, such as "full", "hybrid", "bm25".
    """

    name: str

    def answer(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        """Yields one prediction a sample, in order; greedy."""
        ...

    def identity(self) -> Mapping[str, object]:
        """Returns what decides its predictions, as JSON: fingerprints and settings."""
        ...


def make_prediction(prompt: Prompt, written: Written, text: str, peak_bytes: int = 0) -> Prediction:
    """Returns the prediction of a system that writes by itself.

    Args:
        prompt: What was read.
        written: What came of it.
        text: The same as text.
        peak_bytes: Most memory while it was written; 0 where it is not known yet.
    """
    return Prediction(
        text=text,
        read_tokens=prompt.raw_tokens,
        positions=len(prompt.embeds),
        new_tokens=len(written.tokens),
        first_token_seconds=written.first_token_seconds,
        seconds=written.seconds,
        kv_bytes=written.kv_bytes,
        peak_bytes=peak_bytes,
    )
