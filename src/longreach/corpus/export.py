"""A corpus as plain files that need no LanceDB to read."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from longreach.corpus.faults import explain_storage_faults
from longreach.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from longreach.compressors.memory import Memory
    from longreach.corpus.schema import DocumentInfo, PassageInfo
    from longreach.corpus.store import Corpus


def export(corpus: "Corpus", out: Path) -> list[str]:
    """Writes a corpus as JSON lines and safetensors files.

    The files are `corpus.json` (settings), `documents.jsonl`, `passages.jsonl` and
    `vectors/<revision>.safetensors`.

    A line of `documents.jsonl` holds the counts of a document and the notes on what could not be
    read of its file; a line of `passages.jsonl` holds the text and the span of a passage.

    In a vectors file the tensor named "7" holds the vectors [n, d] of passage 7. Where a passage's
    memory is of another kind, its tensors have their names behind the number: "7.0.keys".

    Args:
        corpus: What to write.
        out: A folder that does not exist yet; it appears whole or not at all.

    Returns:
        The files, relative to `out`.

    Raises:
        UsageError: `out` exists, or cannot be a folder.
        StorageError: The disk refused.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"'{out}' exists already: name a folder that does not.")
    for parent in out.absolute().parents:
        if parent.is_file():
            raise UsageError(
                f"'{out}' cannot be made, because a file lies on its path: name another folder."
            )
    # Renamed at the end, so that nobody takes half an export for a whole one.
    draft = out.with_name(f".{out.name}.partial")
    with explain_storage_faults(out):
        try:
            shutil.rmtree(draft, ignore_errors=True)
            (draft / "vectors").mkdir(parents=True)
            documents = corpus.documents()
            passages = corpus.passages()
            settings = json.dumps(asdict(corpus.settings), indent=1)
            (draft / "corpus.json").write_text(settings + "\n", encoding="utf-8")
            _write_lines(draft / "documents.jsonl", documents)
            _write_lines(draft / "passages.jsonl", passages)
            # One revision after the other: the memories of all need not fit into memory.
            for revision in {passage.revision for passage in passages}:
                tensors = _name_tensors(corpus.memories(revision))
                save_file(tensors, draft / "vectors" / f"{revision}.safetensors")
            draft.rename(out)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


def _name_tensors(memories: "list[Memory]") -> "dict[str, torch.Tensor]":
    """Returns the tensors of passages by the names they have in the file."""
    tensors = {}
    for index, memory in enumerate(memories):
        for name, tensor in memory.tensors().items():
            key = str(index) if name == memory.kind else f"{index}.{name}"
            tensors[key] = tensor
    return tensors


def _write_lines(path: Path, items: "Sequence[DocumentInfo | PassageInfo]") -> None:
    with path.open("w", encoding="utf-8") as file:
        for item in items:
            file.write(json.dumps(asdict(item), ensure_ascii=False) + "\n")
