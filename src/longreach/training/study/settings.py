"""How an adapter is trained: every setting of a study, and what is refused."""

from dataclasses import dataclass
from typing import Literal, get_args

from longreach.errors import UsageError

Loss = Literal["answers", "distill"]


@dataclass(frozen=True)
class StudySettings:
    """How an adapter is trained. The paper's, for a model of 7B, but for the learning rate, which
    there is 2e-5.

    Attributes:
        loss: "answers": cross entropy of the answer; "distill": divergence from what the model
            itself, adapter off, expects with the raw passages in view, over its 20 likeliest
            tokens.
        epochs: how often each question is learned.
        lr: the learning rate at its highest; it falls along a cosine.
        warmup: share of the steps until it is reached.
        lora: rank of the LoRA on the attention's projections; `alpha` is its scale, times the rank.
            Where the corpus' compressor came with an adapter, that one is learned further, and
            these three are its own.
        alpha: see there.
        dropout: before the LoRA.
        batch: questions of a step.
        accumulate: parts a step is learned in, one after the other: takes less memory.
        budget: positions of a prompt at most.
        checkpointing: compute each layer again on the way back: slower, in much less memory.
        save_every: steps between checkpoints; None for ten a run.
        seed: of the order, the dropout and the adapter's start.
        report_to: tensorboard, wandb, trackio: where to send the figures.
    """

    loss: Loss = "answers"
    epochs: int = 3
    lr: float = 3e-4
    warmup: float = 0.04
    lora: int = 8
    alpha: int = 16
    dropout: float = 0.05
    batch: int = 8
    accumulate: int = 1
    budget: int = 2048
    checkpointing: bool = False
    save_every: int | None = None
    seed: int = 0
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("epochs", "lora", "alpha", "batch", "accumulate", "budget", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; give at least 1.")
        if not 0 < self.lr < float("inf"):
            raise UsageError(f"lr is {self.lr}; give a number above 0, such as 3e-4.")
        if not (0 <= self.warmup < 1 and 0 <= self.dropout < 1):
            raise UsageError(
                f"warmup is {self.warmup} and dropout {self.dropout}; both must lie in [0, 1)."
            )
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed is {self.seed}; give 0 to {2**32 - 1}.")
        if self.loss not in get_args(Loss):
            raise UsageError(f"loss is '{self.loss}'; use one of {', '.join(get_args(Loss))}.")
