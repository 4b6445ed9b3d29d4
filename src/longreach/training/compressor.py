"""What an AutoCompressor learns from: text whose earlier parts the model sees as summary vectors only.

Papers: Chevalier et al. 2023 (arXiv 2305.14788), random segments and truncated back-propagation; Ge et al. 2023, ICAE
(arXiv 2307.06945), reconstruction; Eyuboglu et al. 2025, Cartridges (arXiv 2506.06266), distillation from the text in
view; Kusupati et al. 2022 (arXiv 2205.13147), prefixes of one representation that are each usable.

Shapes: B rows, N tokens of a substep, k summary tokens drawn, K at most, P vectors so far, d hidden size.
"""

import math
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from longreach.compressors.autocompressor import Mode
from longreach.compressors.checkpoint import read_peft, write_peft
from longreach.errors import ModelError, UsageError
from longreach.models.decoder import decoder_of, evaluating, length_of_embeddings, window_of
from longreach.models.fingerprint import base_fingerprint
from longreach.models.loss import Likeliest, chunked_cross_entropy, chunked_divergence, likeliest, softcap_of

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
        method: what is trained: an AutoCompressor, or a weighted pool and the adapter that reads it; see
            `training.pooling`.
        segment_tokens: mean tokens of a segment; what the compressor will read at a time.
        summary_tokens: K, the most vectors of a segment: segment_tokens / K is the lowest ratio.
        min_summary_tokens: the fewest. Every batch draws k from here to K, uniformly in log k, and uses the first k
            summary tokens, so that any prefix of them is usable; None keeps k = K.
        whole: share of the batches that use all K instead, so that the lowest ratio is learned first and best.
        mode: what a segment sees of the vectors before it; see `AutoCompressor`.
        segments: of a substep; gradients flow through its vectors.
        substeps: of a sequence; vectors pass from one to the next without gradients.
        longest_segment: the most tokens of a randomised segment; None takes what the window leaves. With
            segment_tokens, all segments are equal.
        reconstruction: weight of the loss of reproducing each segment from its own vectors; 0 leaves it out.
        distillation: weight of the divergence from the untrained model with the text itself in view; 0 leaves it out.
        top_k: tokens of the teacher's distribution that are compared.
        lexical: weight of the loss of naming each segment's words; see `training.lexical`. Needs `questions`.
        scaffold: steps during which what is read are not the vectors but the sums of embeddings that the lexical loss
            teaches them to point to; from half of them on less and less, and more and more the vectors themselves.
        scale: what vectors are multiplied by where they are read. None makes them as long as embeddings, which a model
            learns to read in far fewer steps than states many times as long.
        questions: the most asked about a text in one step; 0 learns to predict text. See `training.instruct`.
        most_vectors: of a text of which questions are asked: a longer one is compressed further than was drawn.
        reading: steps at the beginning in which nothing is asked, so that vectors are read before they are asked about.
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
        if self.min_summary_tokens is not None and not 1 <= self.min_summary_tokens <= self.summary_tokens:
            raise UsageError(f"min_summary_tokens is {self.min_summary_tokens}; give 1 to {self.summary_tokens}.")
        if self.mode not in get_args(Mode):
            raise UsageError(f"mode is '{self.mode}'; it must be one of {', '.join(get_args(Mode))}.")
        if not 0 <= self.whole <= 1:
            raise UsageError(f"whole is {self.whole}; a share lies between 0 and 1.")
        if self.lora_targets not in ADAPTED:
            raise UsageError(f"lora_targets is '{self.lora_targets}'; it must be one of {', '.join(ADAPTED)}.")
        if self.method not in get_args(Method):
            raise UsageError(f"method is '{self.method}'; it must be one of {', '.join(get_args(Method))}.")
        if self.method == "weighted-pool" and not self.questions:
            raise UsageError("A weighted pool is learned from questions: give a number of them.")
        if self.method == "weighted-pool" and self.lexical:
            raise UsageError("The lexical loss is for summary tokens, which a weighted pool has not: leave it out.")
        for name in ("questions", "scaffold", "reading"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 0.")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise UsageError(f"scale is {self.scale}; it must be above 0.")
        if self.questions and (self.mode != "independent" or self.distillation):
            raise UsageError("Answers are learned in mode independent, without distillation: ask for these.")
        if self.lexical and not self.questions:
            raise UsageError("The lexical loss goes with questions: give a number of them, or no lexical weight.")
        if self.reading and not (self.questions and self.reconstruction):
            raise UsageError("Reading is learned from reconstruction, before questions: give both a number.")
        if self.scaffold and not self.lexical:
            raise UsageError("The scaffold is what the lexical loss points to: give that a weight, or no scaffold.")
        for name in ("reconstruction", "distillation", "lexical"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; a weight must be at least 0.")
        if not 0 <= self.lora_dropout < 1:
            raise UsageError(f"lora_dropout is {self.lora_dropout}; it must be at least 0 and below 1.")
        if self.longest_segment is not None and self.longest_segment < self.segment_tokens:
            raise UsageError(f"longest_segment is {self.longest_segment}, below segment_tokens: raise it.")

    @property
    def substep_tokens(self) -> int:
        """N."""
        return self.segments * self.segment_tokens

    @property
    def sequence_tokens(self) -> int:
        """Tokens of one row of a batch."""
        return self.substeps * self.substep_tokens


class Draw(NamedTuple):
    """What chance decides for a batch: k, and the segments' lengths in tokens, substep by substep."""

    summary_tokens: int
    lengths: tuple[tuple[int, ...], ...]


class Substep(NamedTuple):
    """What comes of a substep.

    Attributes:
        loss: what to go back from; the sum of the parts, weighted.
        parts: each loss by name, a mean over the tokens it counts, detached.
        vectors: all vectors of the document so far, [B, P, d]. Detach them before the next substep.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    vectors: Tensor


def random_lengths(tokens: int, segments: int, longest: int, generator: torch.Generator) -> tuple[int, ...]:
    """Lengths of segments cut at random, as published: none beyond `longest`, breakpoints without replacement.

    Raises:
        UsageError: so few segments of that length do not hold so many tokens.
    """
    if longest * segments < tokens:
        raise UsageError(f"{segments} segments of {longest} tokens do not hold {tokens}: raise longest_segment.")
    shortest = max(math.ceil((tokens - longest) / (segments - 1)), 2) if segments > 1 else tokens
    free = tokens - shortest * segments
    if free < segments - 1:  # no room to cut anywhere else
        return tuple(tokens // segments + (i < tokens % segments) for i in range(segments))
    cuts = [0, *sorted(torch.randperm(free + 1, generator=generator)[: segments - 1].tolist()), free]
    return tuple(shortest + right - left for left, right in pairwise(cuts))


class CompressorObjective(torch.nn.Module):
    """A causal language model with what an AutoCompressor trains: LoRA on its attention, and summary embeddings.

    The model reads [vectors so far ; segment] and predicts the next token at every position of the segment, the last
    of which predicts the first of the next segment. Its vectors are those that `AutoCompressor.compress` gives.

    Args:
        model: the base model. LoRA layers are laid over it in place, its own weights frozen.
        tokenizer: its tokenizer, for the EOS embedding, where summary tokens start.
        recipe: see `Recipe`.

    Raises:
        UsageError: a sequence does not fit the model's window, or the tokenizer has no EOS token.
        ModelError: the model cannot be trained so.
    """

    def __init__(self, model: Any, tokenizer: Any, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.longest = _longest_segment(recipe, window_of(model))
        if tokenizer.eos_token_id is None:
            raise UsageError("The tokenizer has no EOS token to start the summary tokens from: give it one.")
        if getattr(model, "peft_config", None):
            raise ModelError("The model carries PEFT adapters: merge or delete them before training.")
        self.base_fingerprint = base_fingerprint(model, tokenizer)
        self._softcap = softcap_of(model)
        lora = LoraConfig(
            r=recipe.lora_r,
            lora_alpha=recipe.lora_alpha,
            lora_dropout=recipe.lora_dropout,
            target_modules=list(ADAPTED[recipe.lora_targets]),
            modules_to_save=None,
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that is going
                self.adapted = get_peft_model(model, lora)
        except ValueError as error:
            names = ", ".join(ADAPTED[recipe.lora_targets])
            raise ModelError(f"{type(model).__name__} has no {names} to adapt: use another.") from error
        if next(model.parameters()).dtype == torch.bfloat16:  # autocast does it, where PEFT would go through float32
            for module in self.adapted.modules():
                if isinstance(module, BaseTunerLayer):
                    module.cast_input_dtype_enabled = False  # type: ignore[assignment]
        self.scale = recipe.scale or scale_to_embeddings(model)
        self.cue: Tensor
        end = model.get_input_embeddings().weight[tokenizer.eos_token_id].detach()
        self.register_buffer("cue", end.clone(), persistent=False)
        # Trained in float32, whatever the model is in: the steps are smaller than bfloat16 can tell.
        self.embed_summary = torch.nn.Parameter(end.float().expand(recipe.summary_tokens, -1).clone())

    @property
    def own(self) -> Tensor:
        """What is trained beside the adapter, at a learning rate of its own."""
        return self.embed_summary

    def save(self, folder: Path, model_ref: str) -> None:
        """Writes what was trained, as `from_pretrained` of the compressor reads it."""
        settings = {
            "method": self.recipe.method,
            "summary_tokens": self.recipe.summary_tokens,
            "segment_tokens": self.recipe.segment_tokens,
            "mode": self.recipe.mode,
            "scale": self.scale,
        }
        write_peft(folder, self.adapted, self.embed_summary, settings, model_ref, self.base_fingerprint)

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote, to go on training. Errors of any kind where it is damaged or of another shape."""
        with torch.no_grad():
            self.embed_summary.copy_(read_peft(folder, self.adapted))

    @property
    def model(self) -> Any:
        """The causal language model, adapted."""
        return self.adapted.get_base_model()

    def draw(self, generator: torch.Generator, scaffold: float = 0.0) -> Draw:
        """Draws the number of summary tokens and the segments of a batch; on the scaffold, all tokens more often."""
        most, least = self.recipe.summary_tokens, self.recipe.min_summary_tokens or self.recipe.summary_tokens
        share = float(torch.rand((), generator=generator, dtype=torch.float64))
        # The outermost numbers get as much room as the others.
        exponent = math.log(least - 0.5) + share * (math.log(most + 0.5) - math.log(least - 0.5))
        if (whole := max(self.recipe.whole, scaffold)) and float(torch.rand((), generator=generator)) < whole:
            exponent = math.log(most)
        tokens, segments = self.recipe.substep_tokens, self.recipe.segments
        lengths = (random_lengths(tokens, segments, self.longest, generator) for _ in range(self.recipe.substeps))
        return Draw(min(max(round(math.exp(exponent)), least), most), tuple(lengths))

    @torch.no_grad()
    def teach(self, ids: Tensor) -> Likeliest:
        """What the model without its adapter expects at each position of `ids` [B, T], all text before it in view."""
        with self.adapted.disable_adapter(), evaluating(self.adapted):
            states = decoder_of(self.model)(input_ids=ids, use_cache=False).last_hidden_state
        return likeliest(states, self._head, self.recipe.top_k, self.recipe.chunk_tokens, softcap=self._softcap)

    def forward(
        self,
        ids: Tensor,
        labels: Tensor,
        lengths: tuple[int, ...],
        summary_tokens: int,
        vectors: Tensor | None = None,
        teacher: Likeliest | None = None,
    ) -> Substep:
        """One substep.

        Args:
            ids: [B, N] token ids.
            labels: [B, N], what each position predicts: the ids one further, -100 where nothing follows.
            lengths: tokens of each segment.
            summary_tokens: k.
            vectors: [B, P, d] of the substeps before, detached; None at the start of a document.
            teacher: what to distil from, for these positions.
        """
        embed = self.model.get_input_embeddings()
        texts = embed(ids).split(list(lengths), dim=1)
        summary = self.embed_summary[:summary_tokens].to(texts[0].dtype).expand(len(ids), -1, -1)
        vectors = texts[0][:, :0] if vectors is None else vectors
        read, own = [], []
        for text in texts:
            before = self.scale * (vectors[:, -summary_tokens:] if self.recipe.mode == "replace" else vectors)
            if self.recipe.mode == "independent" and before.shape[1]:  # read with the vectors, compressed without
                states = self._states(before, text)[:, before.shape[1] :]
                made = self._states(text, summary)[:, text.shape[1] :]
            else:
                states, made = self._states(before, text, summary)[:, before.shape[1] :].split(
                    [text.shape[1], summary_tokens], dim=1
                )
            read.append(states)
            own.append(made)
            vectors = torch.cat([vectors, made], dim=1)
        states = torch.cat(read, dim=1)
        options: dict[str, Any] = {"chunk_tokens": self.recipe.chunk_tokens, "softcap": self._softcap}
        parts = {"lm": chunked_cross_entropy(states, self._head, labels, **options)}
        loss = parts["lm"]
        if self.recipe.reconstruction:
            parts["reconstruction"] = self._reconstruction(ids, texts, own, options)
            loss = loss + self.recipe.reconstruction * parts["reconstruction"]
        if teacher is not None:
            parts["distillation"] = chunked_divergence(states, self._head, teacher, **options)
            loss = loss + self.recipe.distillation * parts["distillation"]
        return Substep(loss, {name: part.detach() for name, part in parts.items()}, vectors)

    @property
    def _head(self) -> Tensor:
        return self.model.get_output_embeddings().weight

    def _states(self, *parts: Tensor) -> Tensor:
        """The states after the final norm of rows without padding, from position 0 on."""
        inputs = torch.cat(parts, dim=1)
        return decoder_of(self.model)(inputs_embeds=inputs, use_cache=False).last_hidden_state

    def _reconstruction(
        self, ids: Tensor, texts: tuple[Tensor, ...], own: list[Tensor], options: dict[str, Any]
    ) -> Tensor:
        """Mean cross entropy of every segment's text after [its vectors ; the cue], nothing else in view."""
        cue = self.cue.expand(len(ids), 1, -1)
        states = [
            self._states(self.scale * vectors, cue, text[:, :-1])[:, vectors.shape[1] :]
            for vectors, text in zip(own, texts, strict=True)
        ]
        return chunked_cross_entropy(torch.cat(states, dim=1), self._head, ids, **options)


@torch.no_grad()
def scale_to_embeddings(model: Any) -> float:
    """What makes the model's states after the final norm as long as its embeddings are on average."""
    return round(length_of_embeddings(model) / float(decoder_of(model).norm.weight.float().norm()), 4)


def _longest_segment(recipe: Recipe, window: int | None) -> int:
    """How long a randomised segment may get so that no input leaves the window."""
    most, total = recipe.summary_tokens, recipe.segments * recipe.substeps
    # Beside the segment: the vectors before it and its own, or the cue of a reconstruction.
    beside = {"accumulate": total * most, "replace": 2 * most, "independent": max(total - 1, 1) * most}[recipe.mode]
    room = recipe.substep_tokens if window is None else min(recipe.substep_tokens, window - max(beside, most + 1))
    longest = min(room, recipe.longest_segment or room)
    if longest < recipe.segment_tokens:
        raise UsageError(
            f"A segment of {recipe.segment_tokens} tokens with up to {beside} vectors before and after it exceeds the "
            f"model's window of {window}: lower segment_tokens, summary_tokens or substeps."
        )
    if recipe.distillation and window is not None and recipe.sequence_tokens > window:
        raise UsageError(
            f"The teacher of distillation reads {recipe.sequence_tokens} tokens at once, more than the model's window "
            f"of {window}: lower segment_tokens or substeps."
        )
    return longest
