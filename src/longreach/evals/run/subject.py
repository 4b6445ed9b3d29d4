"""What an evaluation is about, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longreach.compressors.base import Compressor
    from longreach.corpus.store import Corpus


@dataclass(frozen=True)
class Subject:
    """A model, and for questions about documents what its memory comes from.

    Attributes:
        name: What runs call it.
        model: A causal language model.
        tokenizer: Its tokenizer.
        corpus: Holds the documents with their memory; or None.
        compressor: Makes the memory of documents; or None.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    corpus: Corpus | None = None
    compressor: Compressor | None = None

    @property
    def memory_settings(self) -> Mapping[str, object]:
        """What the memory is made with, as JSON; empty where there is none."""
        # Documents that are compressed for the run; a corpus has its memory already.
        if self.compressor is not None:
            return self.compressor.describe()
        if self.corpus is not None:
            return self.corpus.settings.compressor
        return {}

    @property
    def own_adapter(self) -> Path | None:
        """Folder of the LoRA adapter that came with the memory; None where none did."""
        if self.corpus is not None:
            return self.corpus.adapter_path
        if self.compressor is not None:
            return self.compressor.reader
        return None


@dataclass(frozen=True)
class RunOptions:
    """How a suite is run, whatever it asks.

    Attributes:
        out: Folder of the run: a new one, or that of the same run, which is resumed.
        say: Is told how far it is.
        batch_size: Samples that are answered together.
        beyond_window: Whether lengths are read that the model was not made for.
        arguments: Of the command line, for the record.
    """

    out: Path
    say: Callable[[str], None]
    batch_size: int = 1
    beyond_window: bool = False
    arguments: Sequence[str] = ()


def name_target(target: str) -> str:
    """Returns what a run calls a model or a corpus: a path by its last part only."""
    path = Path(target)
    # Where a model lies concerns one machine only, and does not belong in a report.
    return path.name if path.exists() else target
