"""What every system has: a name, an identity, and answers to samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from longreach.evals.run.sample import Prediction, Sample


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
