"""How long and how fast a compressor is trained, whatever its method."""

from dataclasses import dataclass

from longreach.errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: Of the optimizer.
        batch_size: sequences in one forward pass, on each device.
        accumulate: batches of one step.
        lr: the highest learning rate; it falls along a cosine.
        summary_lr: the same of the summary embeddings, which start all alike; None: lr.
        warmup: share of the steps until it is reached.
        seed: of the order of the data, the draws and the adapter's start.
        save_every, log_every: steps from one checkpoint, one logged loss, to the next.
        checkpointing: compute each layer again in the backward pass: slower, in much less memory.
        report_to: tensorboard, wandb, trackio: where to send the figures.
    """

    steps: int = 1000
    batch_size: int = 1
    accumulate: int = 8
    lr: float = 4e-4
    summary_lr: float | None = None
    warmup: float = 0.04
    seed: int = 0
    save_every: int = 50
    log_every: int = 1
    checkpointing: bool = False
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.summary_lr is not None and not self.summary_lr > 0:
            raise UsageError(f"summary_lr is {self.summary_lr}; it must be above 0.")
        if not self.lr > 0 or not 0 <= self.warmup < 1:
            raise UsageError(
                f"lr is {self.lr} and warmup {self.warmup}; lr must be above 0, warmup in [0, 1)."
            )
