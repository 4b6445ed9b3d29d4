"""How a compressor is trained: every setting, and what does not go together. Floor 5."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from longreach.compressors.autocompressor.options import Mode, check_mode
from longreach.errors import UsageError
from longreach.wording import counted

Method = Literal["autocompressor", "weighted-pool"]
Targets = Literal["attention", "all"]
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ADAPTED: dict[Targets, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "all": (*_ATTENTION, "gate_proj", "up_proj", "down_proj"),
}


@dataclass(frozen=True)
class Recipe:
    """How a compressor is trained.

    Attributes:
        method: what is trained: an AutoCompressor, or a weighted pool and the adapter that reads
            it; see `training.pooling`.
        segment_tokens: mean tokens of a segment; what the compressor will read at a time.
        summary_tokens: K, the most vectors of a segment: segment_tokens / K is the lowest ratio.
        min_summary_tokens: the fewest. Every batch draws k from here to K, uniformly in log k, and
            uses the first k summary tokens, so that any prefix of them is usable; None keeps k = K.
        whole: share of the batches that use all K instead, so that the lowest ratio is learned
            first and best.
        mode: what a segment sees of the vectors before it; see `AutoCompressor`.
        segments: of a substep; gradients flow through its vectors.
        substeps: of a sequence; vectors pass from one to the next without gradients.
        longest_segment: the most tokens of a randomised segment; None takes what the window leaves.
            With segment_tokens, all segments are equal.
        reconstruction: weight of the loss of reproducing each segment from its own vectors; 0
            leaves it out.
        distillation: weight of the divergence from the untrained model with the text itself in
            view; 0 leaves it out.
        top_k: tokens of the teacher's distribution that are compared.
        lexical: weight of the loss of naming each segment's words; see `training.lexical`. Needs
            `questions`.
        scaffold: steps during which what is read are not the vectors but the sums of embeddings
            that the lexical loss teaches them to point to; from half of them on less and less, and
            more and more the vectors themselves.
        scale: what vectors are multiplied by where they are read. None makes them as long as
            embeddings, which a model learns to read in far fewer steps than states many times as
            long.
        questions: the most asked about a text in one step; 0 learns to predict text. See
            `training.instruct`.
        most_vectors: of a text of which questions are asked: a longer one is compressed further
            than was drawn.
        reading: steps at the beginning in which nothing is asked, so that vectors are read before
            they are asked about.
        lora_r, lora_alpha, lora_dropout: the adapter.
        lora_targets: on the attention's four projections, or on these and the three of the MLP.
        chunk_tokens: positions whose logits exist at once.
    """

    method: Method = "autocompressor"
    segment_tokens: int = 480
    summary_tokens: int = 120
    min_summary_tokens: int | None = 16
    whole: float = 0.0
    mode: Mode = "accumulate"
    segments: int = 2
    substeps: int = 2
    longest_segment: int | None = None
    reconstruction: float = 0.0
    distillation: float = 0.0
    top_k: int = 20
    lexical: float = 0.0
    scaffold: int = 0
    scale: float | None = 1.0
    questions: int = 0
    most_vectors: int = 512
    reading: int = 0
    lora_r: int = 16
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_targets: Targets = "attention"
    chunk_tokens: int = 1024

    def __post_init__(self) -> None:
        least = {
            "segment_tokens": 2,
            "summary_tokens": 1,
            "segments": 2,
            "substeps": 1,
            "top_k": 1,
            "lora_r": 1,
            "most_vectors": 1,
        }
        for name, number in least.items():
            if getattr(self, name) < number:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least {number}.")
        if (
            self.min_summary_tokens is not None
            and not 1 <= self.min_summary_tokens <= self.summary_tokens
        ):
            raise UsageError(
                f"min_summary_tokens is {self.min_summary_tokens}; give 1 to {self.summary_tokens}."
            )
        check_mode(self.mode)
        if not 0 <= self.whole <= 1:
            raise UsageError(f"whole is {self.whole}; a share lies between 0 and 1.")
        if self.lora_targets not in ADAPTED:
            raise UsageError(
                f"lora_targets is '{self.lora_targets}'; it must be one of {', '.join(ADAPTED)}."
            )
        if self.method not in get_args(Method):
            raise UsageError(
                f"method is '{self.method}'; it must be one of {', '.join(get_args(Method))}."
            )
        if self.method == "weighted-pool" and not self.questions:
            raise UsageError("A weighted pool is learned from questions: give a number of them.")
        if self.method == "weighted-pool" and self.lexical:
            raise UsageError(
                "The lexical loss is for summary tokens, which a weighted pool has not: leave it"
                " out."
            )
        for name in ("questions", "scaffold", "reading"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 0.")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise UsageError(f"scale is {self.scale}; it must be above 0.")
        if self.questions and (self.mode != "independent" or self.distillation):
            raise UsageError(
                "Answers are learned in mode independent, without distillation: ask for these."
            )
        if self.lexical and not self.questions:
            raise UsageError(
                "The lexical loss goes with questions: give a number of them, or no lexical weight."
            )
        if self.reading and not (self.questions and self.reconstruction):
            raise UsageError(
                "Reading is learned from reconstruction, before questions: give both a number."
            )
        if self.scaffold and not self.lexical:
            raise UsageError(
                "The scaffold is what the lexical loss points to: give that a weight, or no"
                " scaffold."
            )
        for name in ("reconstruction", "distillation", "lexical"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; a weight must be at least 0.")
        if not 0 <= self.lora_dropout < 1:
            raise UsageError(
                f"lora_dropout is {self.lora_dropout}; it must be at least 0 and below 1."
            )
        if self.longest_segment is not None and self.longest_segment < self.segment_tokens:
            raise UsageError(
                f"longest_segment is {self.longest_segment}, below segment_tokens: raise it."
            )

    @property
    def substep_tokens(self) -> int:
        """N."""
        return self.segments * self.segment_tokens

    @property
    def sequence_tokens(self) -> int:
        """Tokens of one row of a batch."""
        return self.substeps * self.substep_tokens


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: of the optimiser.
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


def longest_segment(recipe: Recipe, window: int | None) -> int:
    """How long a randomised segment may get so that no input leaves the window."""
    most, total = recipe.summary_tokens, recipe.segments * recipe.substeps
    # Beside the segment: the vectors before it and its own, or the cue of a reconstruction.
    beside = {
        "accumulate": total * most,
        "replace": 2 * most,
        "independent": max(total - 1, 1) * most,
    }[recipe.mode]
    room = (
        recipe.substep_tokens
        if window is None
        else min(recipe.substep_tokens, window - max(beside, most + 1))
    )
    longest = min(room, recipe.longest_segment or room)
    if longest < recipe.segment_tokens:
        raise UsageError(
            f"A segment of {counted(recipe.segment_tokens, 'token')} with up to"
            f" {counted(beside, 'vector')} before and after it exceeds the model's window of"
            f" {window}: lower segment_tokens, summary_tokens or substeps."
        )
    if recipe.distillation and window is not None and recipe.sequence_tokens > window:
        raise UsageError(
            f"The teacher of distillation reads {counted(recipe.sequence_tokens, 'token')} at once,"
            f" more than the model's window of {window}: lower segment_tokens or substeps."
        )
    return longest
