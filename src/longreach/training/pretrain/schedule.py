"""How long and how fast a compressor is trained, whatever its method."""

from dataclasses import dataclass

from longreach.training.common.checks import check_at_least, check_rate, check_share

# What run.json of an earlier release calls settings of a run.
EARLIER_NAMES = {
    "lora_r": "lora_rank",
    "lr": "learning_rate",
    "summary_lr": "summary_learning_rate",
}


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: Of the optimizer.
        batch_size: Sequences in one forward pass, on each device.
        accumulate: Forward passes of one step.
        learning_rate: At its highest; it falls along a cosine.
        summary_learning_rate: The same of what is trained beside the LoRA, such as summary
            embeddings, which start all alike; None: as the LoRA's.
        warmup: Share of the steps until it is reached.
        seed: Of the order of the data, the draws and the adapter's start.
        save_every: Steps between checkpoints.
        log_every: Steps between losses that are logged.
        checkpointing: Compute each layer again on the way back: slower, in much less memory.
        report_to: Where to send the figures: tensorboard, wandb, trackio.
    """

    steps: int = 1000
    batch_size: int = 1
    accumulate: int = 8
    learning_rate: float = 4e-4
    summary_learning_rate: float | None = None
    warmup: float = 0.04
    seed: int = 0
    save_every: int = 50
    log_every: int = 1
    checkpointing: bool = False
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "batch_size", "accumulate", "save_every", "log_every")
        check_rate("learning_rate", self.learning_rate)
        check_rate("summary_learning_rate", self.summary_learning_rate)
        check_share("warmup", self.warmup)
