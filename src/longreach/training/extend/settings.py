"""How a window is extended: every setting, its default and what is refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from longreach.datasets.held_out import check_held_out
from longreach.errors import UsageError
from longreach.jsontext import JsonObject
from longreach.models.device import check_dtype_name, dtype_of
from longreach.training.common.checks import (
    check_at_least,
    check_rate,
    check_seed,
    check_share,
    check_weight,
)
from longreach.training.extend.curriculum import Stage, check_stages
from longreach.training.extend.order import Mix

if TYPE_CHECKING:
    import torch

SCHEDULES = {"cosine": "cosine", "constant": "constant_with_warmup"}
# What may change when a run is resumed.
_FREE = ("report_to", "save_every", "eval_every", "checkpointing")
# What run.json of an earlier release does not have.
_LATER = ("asks", "windows", "lengths", "train_layers", "teacher_weight")
TRAIN_LAYERS = ("all", "full")
# What run.json of an earlier release calls them.
EARLIER_NAMES = {"max_steps": None, "rows": "batch_size", "lora": "lora_rank"}


@dataclass(frozen=True)
class ExtendSettings:
    """How a window is extended.

    Attributes:
        length: Target length in tokens.
        steps: Steps of the optimizer.
        tokens: Or tokens to learn: steps until they are reached. Neither: the data once.
        batch_tokens: Tokens of a step, about; None for 8 rows of the target length. Batches of all
            processes, and as many of each as it takes, are accumulated.
        batch_size: Rows of the target length in one forward pass of a device.
        lora_rank: Rank of a LoRA on the attention's projections; 0 trains everything.
        lora_alpha: Its scale, times the rank; None for twice the rank.
        train_norms: With LoRA, train the norms as well.
        train_embeddings: With LoRA, train embeddings and LM head as well.
        learning_rate: At its highest; None for 2e-5, or 2e-4 with LoRA.
        schedule: "cosine" down to 0, or "constant".
        warmup: Share of the steps on which the learning rate rises, 0 to 1.
        weight_decay: Of AdamW.
        long_tokens: Documents of this many tokens are drawn more often; never above the target
            length.
        long_weight: How many times as often.
        held_out: Documents for testing: a whole number, or a share of them below 1.
        eval_every: Steps between tests; None for ten tests a run. There is one before and one after
            in any case.
        save_every: Steps between checkpoints, of which the last two are kept; None for ten a run.
        dtype: Of the computation: "bfloat16" (weights that are trained stay float32), "float32", or
            None for bfloat16 on a GPU that has it.
        checkpointing: Compute each layer again on the way back instead of keeping its activations.
        asks: Share of the samples whose rows are made up and ask for far reading; only their
            replies are learned. A sample counts as much as any other then, however many of its
            tokens are learned.
        windows: Local windows in tokens, out of which each sample's is drawn anew; none for the
            model's own. What is saved keeps its own.
        lengths: Lengths of rows in order, with shares of the run; none for the target length
            throughout.
        train_layers: "all", or "full" for a hybrid's full layers only. Nothing below the lowest of
            them has a backward pass.
        teacher_weight: With LoRA, of the divergence from the model itself, without its LoRA and
            with full attention in all layers, where rows reply; 0 for none.
        report_to: Names of trackers: tensorboard, wandb, trackio, ...
        seed: Of the order and of new weights.
    """

    length: int
    steps: int | None = None
    tokens: int | None = None
    batch_tokens: int | None = None
    batch_size: int = 1
    lora_rank: int = 0
    lora_alpha: int | None = None
    train_norms: bool = False
    train_embeddings: bool = False
    learning_rate: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    long_tokens: int = 4096
    long_weight: float = 5.0
    held_out: float = 8
    eval_every: int | None = None
    save_every: int | None = None
    dtype: str | None = None
    checkpointing: bool = True
    asks: float = 0.0
    windows: tuple[int, ...] = ()
    lengths: tuple[Stage, ...] = ()
    train_layers: str = "all"
    teacher_weight: float = 0.0
    report_to: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(self, 1, "steps", "tokens", "batch_tokens", "batch_size", "lora_alpha")
        check_at_least(self, 1, "eval_every", "save_every")
        check_at_least(self, 0, "lora_rank")
        check_held_out(self.held_out, least=0)
        check_rate("learning_rate", self.learning_rate)
        check_share("warmup", self.warmup, whole=True)
        check_weight("weight_decay", self.weight_decay)
        check_seed(self.seed)
        if self.steps and self.tokens:
            raise UsageError(f"steps is {self.steps} and tokens {self.tokens}; give one of them.")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"schedule is {self.schedule!r}; give {' or '.join(SCHEDULES)}.")
        if self.dtype is not None:
            self._check_dtype(self.dtype)
        self._check_asking()
        self.mix.width(1)  # making it checks it
        if (self.train_norms or self.train_embeddings) and not self.lora_rank:
            raise UsageError(
                "train_norms and train_embeddings go with lora_rank; without it everything is"
                " trained anyway."
            )

    def _check_asking(self) -> None:
        check_share("asks", self.asks, whole=True)
        check_weight("teacher_weight", self.teacher_weight)
        check_stages(self.lengths, self.length)
        if self.train_layers not in TRAIN_LAYERS:
            raise UsageError(
                f"train_layers is {self.train_layers!r}; give {' or '.join(TRAIN_LAYERS)}."
            )
        if self.train_layers == "full" and self.train_embeddings:
            raise UsageError(
                "train_embeddings lies below all layers, and train_layers is full: omit one."
            )
        if (self.asks or self.lengths) and not (self.steps or self.tokens):
            raise UsageError(
                "Rows that are made up have no end, and a share of a length is one of the whole"
                " run: say how long it is, with steps or tokens."
            )
        if self.teacher_weight and not (self.lora_rank and self.asks):
            raise UsageError(
                "teacher_weight goes with lora_rank, without which the model is not what it was,"
                " and with asks, whose replies are compared."
            )

    @property
    def highest_rate(self) -> float:
        """The learning rate at its highest."""
        # A new LoRA starts at zero, and bears larger steps than weights that are trained already.
        return self.learning_rate or (2e-4 if self.lora_rank else 2e-5)

    @property
    def step_tokens(self) -> int:
        """Tokens of a step, padding included, about."""
        return self.batch_tokens or 8 * self.length

    @property
    def capacity(self) -> int:
        """Tokens that one device learns at a time."""
        return self.batch_size * self.length

    @property
    def mix(self) -> Mix:
        """How rows are made and drawn."""
        return Mix(
            self.length,
            self.capacity,
            # At a short target length every document that fills a row counts as long.
            min(self.long_tokens, self.length),
            self.long_weight,
            self.seed,
        )

    def computed_in(self, device: str) -> torch.dtype:
        """The dtype of the computation on a device."""
        import torch

        if self.dtype is not None:
            return dtype_of(self.dtype)
        if device != "cpu" and torch.cuda.is_bf16_supported():
            return torch.bfloat16
        return torch.float32

    @staticmethod
    def _check_dtype(dtype: str) -> None:
        check_dtype_name(dtype)
        if dtype not in ("bfloat16", "float32"):
            raise UsageError(f"dtype is {dtype}; training takes bfloat16 or float32.")

    def identity(self) -> JsonObject:
        """Returns what must be the same when a run is resumed."""
        values = asdict(self)
        # Left as they are, they are what every run of an earlier release had.
        usual = ExtendSettings(self.length)
        left = {name for name in _LATER if values[name] == getattr(usual, name)}
        return {key: value for key, value in values.items() if key not in {*_FREE, *left}}
