"""How a window is extended: every setting, its default and what is refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from longreach.errors import UsageError
from longreach.models.device import check_dtype_name, dtype_of
from longreach.training.extend.order import Mix

if TYPE_CHECKING:
    import torch

SCHEDULES = {"cosine": "cosine", "constant": "constant_with_warmup"}
# What may change when a run goes on.
_FREE = ("report_to", "save_every", "eval_every", "checkpointing")


@dataclass(frozen=True)
class Settings:
    """How a window is extended.

    Attributes:
        length: Target length in tokens.
        max_steps: Optimiser steps.
        tokens: Or tokens to learn: steps until they are reached. Neither: the data once.
        batch_tokens: Tokens of a step, about; None for 8 rows of the target length. Batches of all
            processes, and as many of each as it takes, are accumulated.
        rows: Rows of the target length that one device learns at a time.
        lora: Rank of a LoRA on the attention's projections; 0 trains everything.
        train_norms: With LoRA, train the norms as well.
        train_embeddings: With LoRA, train embeddings and LM head as well.
        learning_rate: At its highest; None for 2e-5, or 2e-4 with LoRA.
        schedule: "cosine" down to 0, or "constant".
        warmup: Share of the steps on which the learning rate rises, 0 to 1.
        weight_decay: Of AdamW.
        long_tokens: Documents of so many tokens are drawn more often; never above the target
            length.
        long_weight: How many times as often.
        held_out: Documents for testing.
        eval_every: Steps between tests; None for ten tests a run. There is one before and one after
            in any case.
        save_every: Steps between checkpoints, of which the last two are kept; None for ten a run.
        dtype: Of the computation: "bfloat16" (weights that are trained stay float32), "float32", or
            None for bfloat16 on a GPU that has it.
        checkpointing: Compute each layer again on the way back instead of keeping its activations.
        report_to: Names of trackers: tensorboard, wandb, trackio, ...
        seed: Of the order and of new weights.
    """

    length: int
    max_steps: int | None = None
    tokens: int | None = None
    batch_tokens: int | None = None
    rows: int = 1
    lora: int = 0
    train_norms: bool = False
    train_embeddings: bool = False
    learning_rate: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    long_tokens: int = 4096
    long_weight: float = 5.0
    held_out: int = 8
    eval_every: int | None = None
    save_every: int | None = None
    dtype: str | None = None
    checkpointing: bool = True
    report_to: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_steps", "tokens", "batch_tokens", "rows", "eval_every", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; give at least 1.")
        if self.max_steps and self.tokens:
            raise UsageError(
                f"max_steps is {self.max_steps} and tokens {self.tokens}; give one of them."
            )
        if self.schedule not in SCHEDULES:
            raise UsageError(f"schedule is {self.schedule!r}; give {' or '.join(SCHEDULES)}.")
        if not 0 <= self.warmup <= 1 or self.lora < 0 or self.seed < 0 or self.weight_decay < 0:
            raise UsageError(
                "warmup is a share from 0 to 1; lora, weight_decay and seed are 0 or more."
            )
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise UsageError(
                f"learning_rate is {self.learning_rate}; give a number above 0, such as 2e-5."
            )
        if self.dtype is not None:
            self._check_dtype(self.dtype)
        self.mix.width(1)  # making it checks it
        if (self.train_norms or self.train_embeddings) and not self.lora:
            raise UsageError(
                "train_norms and train_embeddings go with lora; without it everything is trained"
                " anyway."
            )

    @property
    def highest_rate(self) -> float:
        """The learning rate at its highest."""
        return self.learning_rate or (2e-4 if self.lora else 2e-5)

    @property
    def step_tokens(self) -> int:
        """Tokens of a step, padding included, about."""
        return self.batch_tokens or 8 * self.length

    @property
    def capacity(self) -> int:
        """Tokens that one device learns at a time."""
        return self.rows * self.length

    @property
    def mix(self) -> Mix:
        """How rows are made and drawn."""
        return Mix(
            self.length,
            self.capacity,
            min(self.long_tokens, self.length),
            self.long_weight,
            self.seed,
        )

    def computed_in(self, device: str) -> torch.dtype:
        """The dtype of the computation on a device."""
        import torch

        if self.dtype is None:
            return (
                torch.bfloat16
                if device != "cpu" and torch.cuda.is_bf16_supported()
                else torch.float32
            )
        return dtype_of(self.dtype)

    @staticmethod
    def _check_dtype(dtype: str) -> None:
        check_dtype_name(dtype)
        if dtype not in ("bfloat16", "float32"):
            raise UsageError(f"dtype is {dtype}; training takes bfloat16 or float32.")

    def identity(self) -> dict[str, Any]:
        """What must be the same when a run goes on."""
        return {key: value for key, value in asdict(self).items() if key not in _FREE}
