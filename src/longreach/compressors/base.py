"""The contract of a compressor: token ids in, memory out.

Shapes: T tokens of a segment, n vectors, d hidden size.
"""

import hashlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
from tqdm import tqdm

from longreach.compressors.jobs import Job, SegmentMemory
from longreach.compressors.memory import Memory, Vectors, concatenated
from longreach.errors import UsageError
from longreach.jsontext import JsonObject, JsonValue, read_field
from longreach.models.decoder import check_readable, check_tokens, embedding_weight, only_adapter
from longreach.models.fingerprint import base_fingerprint, weights_digest
from longreach.models.loading.origin import reference_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Segment(NamedTuple):
    """The token ids of segment `number` of the document `key`."""

    key: Hashable
    number: int
    ids: Sequence[int]


class Compressor(ABC):
    """Turns every segment of a document into a memory that the model reads instead of its tokens.

    Subclasses implement `stream`; `compress`, `segments` and the fingerprints follow from it. A
    compressor never truncates: every token of a document lies in exactly one segment, the last of
    which may be short.

    A compressor may share its model with readers and other compressors in any threads: each forward
    holds the model's lock, and none is held while the caller of `stream` has the memory.

    Attributes:
        method: The name of its method.
        ref: How a trained one is named: one that ships, or its folder.
        reader: Folder of the PEFT adapter that was learned with it, to read its memory.
        adapter: The adapter that is on while it compresses, as `add_adapter` named it.
        adapter_digest: Names the weights of that adapter.
    """

    method: ClassVar[str]
    ref: str = ""
    reader: Path | None = None
    adapter: str | None = None
    adapter_digest: str = ""

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", *, segment_tokens: int
    ) -> None:
        if segment_tokens < 1:
            raise UsageError(f"segment_tokens is {segment_tokens}; it must be at least 1.")
        check_readable(model)
        self.model = model
        self.tokenizer = tokenizer
        self.segment_tokens = segment_tokens

    @classmethod
    def untrained(
        cls, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", **settings: Any
    ) -> Self:
        """Returns a compressor that needs no training, with options of its method."""
        return cls(model, tokenizer, **settings)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        model: "PreTrainedModel | None" = None,
        tokenizer: "PreTrainedTokenizerBase | None" = None,
        **settings: Any,
    ) -> Self:
        """Returns the compressor that lies in a folder, with options of its method laid over it.

        Args:
            folder: Of the compressor, or the name of one that ships.
            model: The base model; None loads the one that the folder names.
            tokenizer: Its tokenizer.
            **settings: Options of the method, where they differ from those stored.

        Raises:
            UsageError: This method is not trained.
        """
        raise UsageError(f"A compressor '{cls.method}' has no folder: name the method alone.")

    @classmethod
    def restore(
        cls,
        folder: str | Path,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        fingerprint: str,
        **described: Any,
    ) -> Self:
        """Returns a trained compressor as it made a corpus.

        Args:
            folder: See `from_pretrained`.
            model: The model of the corpus.
            tokenizer: Its tokenizer.
            fingerprint: The model fingerprint of the corpus.
            **described: What `describe` gave, but for the method.
        """
        return cls.from_pretrained(folder, model, tokenizer, **described)

    @classmethod
    def merges(cls, folder: str | Path) -> bool:
        """Whether loading from a folder changes the weights of the model, so that none is shared.

        Only methods that say `changes_model` are asked.
        """
        return False

    def write_reader(self, folder: Path) -> None:
        """Writes the adapter that reads its vectors into a folder that does not exist yet."""
        assert self.reader is not None, "there is no adapter to write"
        shutil.copytree(self.reader, folder)

    @classmethod
    def describe_options(
        cls, asked: Mapping[str, JsonValue], described: Mapping[str, JsonValue]
    ) -> JsonObject:
        """Returns options in the words of `describe`, to be compared with a description.

        Args:
            asked: Options of the method.
            described: What `describe` of a compressor of this class gave.
        """
        return dict(asked)

    @classmethod
    def tokens_per_position(cls, described: Mapping[str, JsonValue]) -> int:
        """Returns how many tokens share a position of its memory, rounded.

        Args:
            described: What `describe` of a compressor of this class gave.
        """
        return round(read_field(described, "ratio", float))

    @property
    def dim(self) -> int:
        """d, the size of one vector."""
        return int(embedding_weight(self.model).shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the vectors, which is the model's own."""
        return embedding_weight(self.model).dtype

    @property
    def default_batch_size(self) -> int:
        """The number of segments in one forward pass."""
        # One fills the cores of a CPU, and a GPU wants more.
        return 1 if self.model.device.type == "cpu" else 8

    @abstractmethod
    def describe(self) -> JsonObject:
        """Returns the settings, as JSON values; with the weights they determine every vector."""

    @abstractmethod
    def vectors_in(self, tokens: int) -> int:
        """Returns how many vectors a segment of `tokens` tokens becomes."""

    @abstractmethod
    def stream(
        self, jobs: Iterable[Job], *, batch_size: int | None = None
    ) -> Iterator[SegmentMemory]:
        """Yields the memory of each segment as soon as it exists.

        The segments of one document come in order. Documents of unequal length share batches; a
        result does not depend on its neighbors beyond rounding.

        Args:
            jobs: The documents; read lazily, so that some may be loaded while others are
                compressed.
            batch_size: Segments in one forward pass; None chooses by device.
        """

    def remember(self, vectors: torch.Tensor) -> Memory:
        """Returns the memory that vectors [n, d] of a segment are."""
        return Vectors(vectors)

    def check(self, tokens: int) -> None:  # noqa: B027 (most methods take any length)
        """Checks whether a document of `tokens` tokens can be compressed.

        Raises:
            DocumentError: It cannot.
        """

    def check_tokenizer(self) -> None:
        """Checks whether the model has an embedding of every token that documents can have.

        Raises:
            ModelError: It has not.
        """
        # A compressor that makes memory without a model has nothing to compare with.
        if getattr(self, "model", None) is not None:
            check_tokens(self.model, self.tokenizer)

    def own_tensors(self) -> dict[str, torch.Tensor]:
        """Returns the trained tensors beside the model's weights, by name."""
        return {}

    def segments(self, tokens: int) -> list[range]:
        """Returns the token ranges of the segments of a document of `tokens` tokens."""
        found = []
        for start in range(0, tokens, self.segment_tokens):
            found.append(range(start, min(start + self.segment_tokens, tokens)))
        return found

    def passages(self, segment: range) -> list[range]:
        """Returns the token ranges of the passages of a segment, which has one or more."""
        return [segment]

    def embed(self, ids: Sequence[int]) -> torch.Tensor:
        """Returns the input embeddings [T, d] of token ids."""
        tokens = torch.tensor(list(ids), dtype=torch.long, device=self.model.device)
        with only_adapter(self.model, self.adapter):
            return self.model.get_input_embeddings()(tokens)

    def stream_segments(
        self,
        jobs: Iterable[Job],
        batch_size: int | None,
        encode: Callable[[list[torch.Tensor]], list[torch.Tensor]],
    ) -> Iterator[SegmentMemory]:
        """Does what `stream` does, for methods whose segments do not depend on each other.

        Args:
            jobs: See `stream`.
            batch_size: See `stream`.
            encode: Maps embeddings [T_i, d] of segments to vectors [n_i, d].
        """
        rows = self.unfinished(jobs)
        while batch := list(islice(rows, batch_size or self.default_batch_size)):
            with torch.no_grad():
                encoded = encode([self.embed(segment.ids) for segment in batch])
            for segment, vectors in zip(batch, encoded, strict=True):
                yield SegmentMemory(segment.key, segment.number, self.remember(vectors))

    def unfinished(self, jobs: Iterable[Job]) -> Iterator[Segment]:
        """Yields the segments of documents that are still to be compressed, in order."""
        for job in jobs:
            for number, span in enumerate(self.segments(len(job.ids))):
                # What an earlier run finished is not made again.
                if number >= len(job.done):
                    yield Segment(job.key, number, job.ids[span.start : span.stop])

    def compress(
        self,
        documents: Sequence[Sequence[int]],
        *,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> list[torch.Tensor]:
        """Compresses whole documents.

        Args:
            documents: Token id lists of any lengths, without special tokens.
            batch_size: Segments in one forward pass; None chooses by device.
            progress: Show a bar in tokens per second on stderr.

        Returns:
            One tensor [n_i, d] a document, in order, on the model's device; [0, d] for an empty
            one.

        Raises:
            UsageError: A token id is outside the vocabulary, or the memory is not vectors.
            DocumentError: A document is too long for this compressor's settings.
        """
        # All documents are checked before the first is compressed, which may take hours.
        vocabulary = embedding_weight(self.model).shape[0]
        for number, ids in enumerate(documents):
            # On a GPU an index out of range would break the whole process, and name no document.
            if len(ids) and not (min(ids) >= 0 and max(ids) < vocabulary):
                raise UsageError(
                    f"Document {number} holds token ids outside 0..{vocabulary - 1}: use this"
                    " model's own tokenizer."
                )
            self.check(len(ids))
        parts: list[list[Memory]] = [[] for _ in documents]
        jobs = (Job(number, ids) for number, ids in enumerate(documents))
        total = sum(map(len, documents))
        # tqdm takes None for: on a terminal only.
        hidden = None if progress else True
        with tqdm(total=total, unit="tok", unit_scale=True, disable=hidden, desc="compress") as bar:
            for key, segment, memory in self.stream(jobs, batch_size=batch_size):
                parts[key].append(memory)  # type: ignore[call-overload]
                bar.update(len(self.segments(len(documents[key]))[segment]))  # type: ignore[call-overload]
        empty = torch.empty(0, self.dim, dtype=self.dtype, device=self.model.device)
        return [concatenated(rows) if rows else empty for rows in parts]

    @property
    def model_ref(self) -> str:
        """What `longreach.load` takes for the model, or "" where that is not known."""
        return reference_of(self.model)

    @property
    def model_fingerprint(self) -> str:
        """The name of the model that can read the memory: of its weights and its vocabulary.

        Weights count to bfloat16, so that a GPU and a CPU read each other's memory.
        """
        return base_fingerprint(self.model, self.tokenizer)

    @property
    def fingerprint(self) -> str:
        """The name of everything the memory depends on.

        That is exact weights, tokenizer, method, settings and dtype.
        """
        described = json.dumps(self.describe(), sort_keys=True)
        digest = hashlib.sha256(described.encode())
        digest.update(self.model_fingerprint.encode())
        digest.update(str(self.dtype).encode())
        # The model fingerprint rounds weights to bfloat16; here every bit of them counts.
        digest.update(weights_digest(self.model).encode())
        # The weights of adapters do not count to the model's: they are laid over it.
        digest.update(self.adapter_digest.encode())
        for name, tensor in sorted(self.own_tensors().items()):
            # NumPy has no bfloat16, so the bytes are hashed as they are.
            raw = tensor.detach().cpu().contiguous().view(torch.uint8)
            digest.update(name.encode() + raw.numpy().tobytes())
        return digest.hexdigest()[:32]
