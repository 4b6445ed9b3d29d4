"""AutoCompressor: summary tokens read a segment, and what the model makes of them stands for it.

Papers: Chevalier et al. 2023 (arXiv 2305.14788); Tan et al. 2024, LLoCO (arXiv 2404.07979).

Shapes: k summary tokens, d hidden size, P softprompt vectors, T tokens of a segment.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch

from longreach.compressors.autocompressor import checkpoint
from longreach.compressors.autocompressor.options import AUTOCOMPRESSOR, Mode, check_mode
from longreach.compressors.base import Compressor
from longreach.compressors.jobs import Job, SegmentMemory
from longreach.compressors.memory import Memory, Vectors, concatenated
from longreach.compressors.shipped import reference, resolve_folder
from longreach.errors import DocumentError, UsageError
from longreach.jsontext import JsonObject, JsonValue, read_field
from longreach.models.decoder import hidden_states, window_of
from longreach.models.fingerprint import base_fingerprint
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class _Active(NamedTuple):
    """A document in work.

    Attributes:
        job: What is asked for.
        spans: The token ranges of its segments.
        vectors: Those of the segments so far, [k, d] each.
    """

    job: Job
    spans: list[range]
    vectors: list[torch.Tensor]


class AutoCompressor(Compressor):
    """A segment of `segment_tokens` tokens becomes `summary_tokens` vectors.

    The input of a segment is [softprompt ; segment ; summary tokens] at positions 0, 1, 2, ...
    without BOS; its vectors are the last hidden states after the final norm at the summary tokens.
    A short last segment gives `summary_tokens` vectors too.

    Args:
        model: Any causal decoder of transformers that takes `inputs_embeds`. Shared, never changed;
            other PEFT adapters on it are switched off while it compresses.
        tokenizer: Its tokenizer.
        summary_tokens: k.
        segment_tokens: Tokens of a segment.
        mode: The softprompt is all earlier vectors of the document ("accumulate", the published
            default), those of the last segment ("replace", a recurrent memory), or empty
            ("independent").
        embed_summary: Trained embeddings [k, d] of the summary tokens. None: every row the model's
            EOS embedding, which is where training starts; such vectors carry little.
        scale: What vectors are multiplied by wherever they are read, in prompts and as softprompts;
            they are stored as the states they are.
        reader: Folder of a PEFT adapter, which is on while it compresses and while its vectors are
            read. A new corpus takes a copy.

    Raises:
        UsageError: A number or mode out of range, or a segment that exceeds the model's window.
    """

    method = AUTOCOMPRESSOR.name

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        summary_tokens: int = 50,
        segment_tokens: int = 1536,
        mode: Mode = "accumulate",
        *,
        embed_summary: torch.Tensor | None = None,
        scale: float = 1.0,
        reader: Path | None = None,
    ) -> None:
        super().__init__(model, tokenizer, segment_tokens=segment_tokens)
        if summary_tokens < 1:
            raise UsageError(f"summary_tokens is {summary_tokens}; it must be at least 1.")
        check_mode(mode)
        self.summary_tokens = summary_tokens
        self.mode = mode
        self.scale = scale
        self.reader = reader
        if reader is not None:
            # Laid first, because untrained summary tokens start from an embedding that is read with
            # it on.
            checkpoint.lay_adapter(self)
        self.embed_summary = torch.nn.Embedding(
            summary_tokens, self.dim, dtype=self.dtype, device=model.device
        )
        with torch.no_grad():
            self.embed_summary.weight.copy_(self._checked(embed_summary))
        window = window_of(model)
        if window and self._longest_input(segment_tokens) > window:
            raise UsageError(
                f"A segment of {counted(segment_tokens, 'token')} with"
                f" {counted(summary_tokens, 'summary token')} exceeds the model's window of"
                f" {window}: lower segment_tokens."
            )

    def _checked(self, embed_summary: torch.Tensor | None) -> torch.Tensor:
        """Returns the embeddings of the summary tokens, or what stands in for them."""
        if embed_summary is None:
            eos = self.tokenizer.eos_token_id
            if eos is None:
                raise UsageError(
                    "The tokenizer has no EOS token to start the summary tokens from: give"
                    " embed_summary."
                )
            return self.embed([eos]).expand(self.summary_tokens, -1)
        if embed_summary.shape != self.embed_summary.weight.shape:
            raise UsageError(
                f"embed_summary has shape {tuple(embed_summary.shape)};"
                f" {tuple(self.embed_summary.weight.shape)} is needed: one row a summary token, the"
                " model's hidden size."
            )
        return embed_summary

    @classmethod
    def untrained(
        cls, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", **settings: Any
    ) -> Self:
        """See `Compressor.untrained`; a ratio stands for a number of summary tokens."""
        if "ratio" in settings:
            segment = settings.get("segment_tokens", checkpoint.DEFAULT_SEGMENT)
            settings = checkpoint.resolve_ratio(settings, segment)
        return cls(model, tokenizer, **settings)

    @classmethod
    def describe_options(
        cls, asked: Mapping[str, JsonValue], described: Mapping[str, JsonValue]
    ) -> JsonObject:
        """See `Compressor.describe_options`; a ratio becomes a number of vectors."""
        found = dict(asked)
        if "ratio" in found:
            segment = read_field({**described, **found}, "segment_tokens", int)
            ratio = read_field(found, "ratio", float)
            del found["ratio"]
            # A ratio of 0 is refused elsewhere with a sentence, and must not divide here.
            found["summary_tokens"] = segment // max(ratio, 1)
        return found

    @classmethod
    def tokens_per_position(cls, described: Mapping[str, JsonValue]) -> int:
        """See `Compressor.tokens_per_position`."""
        tokens = read_field(described, "segment_tokens", int)
        return round(tokens / read_field(described, "summary_tokens", int))

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        model: "PreTrainedModel | None" = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        *,
        merged: bool = False,
        **settings: Any,
    ) -> Self:
        """Loads a compressor: our own folder, the published AutoCompressor layout, or a PEFT one.

        Args:
            folder: What `save` wrote; or a Llama checkpoint with `embed_summary.weight` beside its
                weights; or a PEFT folder with LoRA weights and `embed_summary`; or the name of a
                compressor that ships.
            model: The base model where the folder holds none; None loads the one the folder names.
                LoRA weights are laid over it as an adapter, `reader`, which is on while it
                compresses; read its vectors with the same adapter on, as `Reader` does.
            tokenizer: Its tokenizer.
            merged: Add LoRA weights into the model instead, for good; read with `compressor.model`.
            **settings: Segment_tokens or mode, where they differ from those stored; and how far to
                compress: summary_tokens=k takes the first k of the summary tokens trained, ratio=r
                as many as keep at least r tokens a vector (segment_tokens // r). Part of the
                fingerprint.

        Raises:
            ModelError: The folder is none of these, or its parts do not fit.
            UsageError: More summary tokens are asked for than were trained, or a setting is out of
                range.
        """
        stored = checkpoint.read(resolve_folder(folder), model, tokenizer, merged=merged)
        compressor = cls(**checkpoint.choose_arguments(stored, settings))
        compressor.ref = reference(folder)
        return compressor

    @classmethod
    def restore(
        cls,
        folder: str | Path,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        fingerprint: str,
        **described: Any,
    ) -> Self:
        """See `Compressor.restore`.

        Corpora of earlier releases belong to a model that the LoRA was merged into.
        """
        merged = fingerprint != base_fingerprint(model, tokenizer)
        return cls.from_pretrained(folder, model, tokenizer, merged=merged, **described)

    @classmethod
    def merges(cls, folder: str | Path) -> bool:
        """See `Compressor.merges`: modules that were trained whole replace those of the model."""
        return bool(checkpoint.find_whole_modules(resolve_folder(folder)))

    def write_reader(self, folder: Path) -> None:
        """See `Compressor.write_reader`; nothing but the adapter, without summary embeddings."""
        assert self.reader is not None, "there is no adapter to write"
        checkpoint.write_reader(self.reader, folder, self.model_ref, self.model_fingerprint)

    def save(self, folder: str | Path, *, model_ref: str = "", include_model: bool = False) -> None:
        """Writes settings, summary embeddings and the LoRA, if there is one, as safetensors.

        Args:
            folder: Made where missing.
            model_ref: The base model, as `longreach.load` takes it, so that the folder can be
                loaded alone.
            include_model: Write the weights and tokenizer too, in the published AutoCompressor
                layout.
        """
        checkpoint.write(self, Path(folder), model_ref, include_model)

    def describe(self) -> JsonObject:
        """See `Compressor.describe`."""
        return {
            "method": self.method,
            "summary_tokens": self.summary_tokens,
            "segment_tokens": self.segment_tokens,
            "mode": self.mode,
            # Omitted at 1, which is what descriptions without a scale mean.
            **({"scale": self.scale} if self.scale != 1 else {}),
        }

    def vectors_in(self, tokens: int) -> int:
        """Returns `summary_tokens`, for a short segment too."""
        return self.summary_tokens

    def own_tensors(self) -> dict[str, torch.Tensor]:
        """Returns the embeddings of the summary tokens."""
        return {"embed_summary.weight": self.embed_summary.weight}

    def remember(self, vectors: torch.Tensor) -> Memory:
        """See `Compressor.remember`."""
        return Vectors(vectors, self.scale)

    def check(self, tokens: int) -> None:
        """See `Compressor.check`; all earlier vectors and a segment have to fit the window."""
        window = window_of(self.model)
        needed = self._longest_input(tokens)
        if window and needed > window:
            raise DocumentError(
                f"A document of {counted(tokens, 'token')} takes {counted(needed, 'position')} in"
                f" mode '{self.mode}', of {window}: use mode 'independent' or 'replace', or larger"
                " segments."
            )

    def stream(
        self, jobs: Iterable[Job], *, batch_size: int | None = None
    ) -> Iterator[SegmentMemory]:
        """See `Compressor.stream`.

        In the modes with a softprompt a batch holds one segment of each of several documents.
        """
        if self.mode == "independent":
            yield from self.stream_segments(jobs, batch_size, self.encode)
            return
        slots = batch_size or self.default_batch_size
        waiting = iter(jobs)
        active: list[_Active] = []
        while True:
            # A document that is done leaves its place to the next one.
            while len(active) < slots and (job := next(waiting, None)) is not None:
                document = self._begin(job)
                # An empty document, or one that an earlier run finished, has nothing left to do.
                if len(document.vectors) < len(document.spans):
                    active.append(document)
            if not active:
                return
            with torch.no_grad():
                encoded = self.encode([self._input(document) for document in active])
            for document, vectors in zip(active, encoded, strict=True):
                document.vectors.append(vectors)
                number = len(document.vectors) - 1
                yield SegmentMemory(document.job.key, number, self.remember(vectors))
            unfinished = []
            for document in active:
                if len(document.vectors) < len(document.spans):
                    unfinished.append(document)
            active = unfinished

    def _begin(self, job: Job) -> _Active:
        done = []
        for memory in job.done:
            done.append(concatenated([memory]).to(self.model.device, self.dtype))
        return _Active(job, self.segments(len(job.ids)), done)

    def encode(self, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        """Returns the summary vectors [k, d] of each [softprompt ; segment]; differentiable.

        Args:
            rows: Embeddings [P + T, d].
        """
        inputs = [torch.cat([row, self.embed_summary.weight]) for row in rows]
        states = hidden_states(self.model, inputs, adapter=self.adapter)
        found = []
        for state, row in zip(states, rows, strict=True):
            # Behind the summary tokens is padding.
            found.append(state[len(row) : len(row) + self.summary_tokens])
        return found

    def _input(self, document: _Active) -> torch.Tensor:
        """Returns [softprompt ; the next segment] of a document, [P + T, d]."""
        span = document.spans[len(document.vectors)]
        softprompt = document.vectors if self.mode == "accumulate" else document.vectors[-1:]
        parts = [self.scale * vectors for vectors in softprompt]
        parts.append(self.embed(document.job.ids[span.start : span.stop]))
        return torch.cat(parts)

    def _longest_input(self, tokens: int) -> int:
        """Returns the positions of the longest input that a document of `tokens` tokens makes."""
        # How many earlier segments an input carries vectors of; `tokens` is as good as no limit.
        most = {"accumulate": tokens, "replace": 1, "independent": 0}[self.mode]
        longest = 0
        for number, span in enumerate(self.segments(tokens)):
            # The vectors of so many earlier segments, and those that are made.
            carried = min(number, most) + 1
            longest = max(longest, carried * self.summary_tokens + len(span))
        return longest
