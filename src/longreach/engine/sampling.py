"""How a question is put and tokens are chosen.

Imports no torch, so that commands check their options first.
"""

from dataclasses import dataclass

from longreach.errors import UsageError

REQUEST = "Answer the question in one short sentence, using the text above.\n\nQuestion: "
"""What a model is told before the question."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        max_new_tokens: Tokens of an answer at most.
        temperature: 0 is greedy: always the likeliest token.
        top_p: Sample from the likeliest tokens that together have this probability.
        top_k: Sample from this number of likeliest tokens; 0 is no limit.
        seed: The same seed gives the same answer on the same machine; None draws one.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1.")
        # Written so that NaN is refused too, with which every comparison is false.
        if not self.temperature >= 0:
            raise UsageError(f"temperature is {self.temperature}; it must be 0 (greedy) or more.")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}; it must lie in (0, 1].")
        # What the generators of torch take.
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise UsageError(f"seed is {self.seed}; it must fit 64 bits.")
        if self.top_k < 0:
            raise UsageError(f"top_k is {self.top_k}; it must be 0 (no limit) or more.")
