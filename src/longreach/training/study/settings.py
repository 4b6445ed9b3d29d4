"""How an adapter is trained: every setting of a study, and what is refused."""

from dataclasses import asdict, dataclass
from typing import Literal, get_args

from longreach.errors import UsageError
from longreach.jsontext import JsonObject
from longreach.training.common.checks import check_at_least, check_rate, check_seed, check_share

Loss = Literal["answers", "distill"]
# What may change when a study is resumed.
_FREE = ("save_every", "checkpointing", "report_to")
_EARLIER_NAMES = {
    "learning_rate": "lr",
    "lora_rank": "lora",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "batch_size": "batch",
}


@dataclass(frozen=True)
class StudySettings:
    """How an adapter is trained.

    The defaults are the paper's for a model of 7B, but for the learning rate, which there is 2e-5.

    Attributes:
        loss: "answers": cross entropy of the answer; "distill": divergence from what the model
            itself, adapter off, expects with the raw passages in view, over its 20 likeliest
            tokens.
        epochs: How often each question is learned.
        learning_rate: At its highest; it falls along a cosine.
        warmup: Share of the steps until it is reached.
        lora_rank: Rank of the LoRA on the attention's projections. Where the corpus' compressor
            came with an adapter, that one is learned further, and these three are its own.
        lora_alpha: Its scale, times the rank.
        lora_dropout: Dropout before the LoRA.
        batch_size: Questions in one forward pass.
        accumulate: Forward passes of a step: more of them with fewer questions take less memory.
        budget: Positions of a prompt at most.
        checkpointing: Compute each layer again on the way back: slower, in much less memory.
        save_every: Steps between checkpoints; None for ten a run.
        seed: Of the order, the dropout and the adapter's start.
        report_to: Where to send the figures: tensorboard, wandb, trackio.
    """

    loss: Loss = "answers"
    epochs: int = 3
    learning_rate: float = 3e-4
    warmup: float = 0.04
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    batch_size: int = 8
    accumulate: int = 1
    budget: int = 2048
    checkpointing: bool = False
    save_every: int | None = None
    seed: int = 0
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_at_least(self, 1, "epochs", "lora_rank", "lora_alpha", "batch_size", "accumulate")
        check_at_least(self, 1, "budget", "save_every")
        check_rate("learning_rate", self.learning_rate)
        check_share("warmup", self.warmup)
        check_share("lora_dropout", self.lora_dropout)
        check_seed(self.seed)
        if self.loss not in get_args(Loss):
            raise UsageError(f"loss is '{self.loss}'; use one of {', '.join(get_args(Loss))}.")

    @property
    def step_questions(self) -> int:
        """Questions of a step."""
        return self.batch_size * self.accumulate

    def identity(self) -> JsonObject:
        """Returns what must be the same when a study is resumed."""
        return {key: value for key, value in asdict(self).items() if key not in _FREE}

    def earlier_identity(self) -> JsonObject:
        """Returns the same as earlier releases named it."""
        found = self.identity()
        for now, earlier in _EARLIER_NAMES.items():
            found[earlier] = found.pop(now)
        # Earlier releases counted the questions of a step, not those of one forward pass.
        found["batch"] = self.step_questions
        return found
