"""Reads every byte of a corpus and says what is not as it was written."""

from dataclasses import dataclass, field
from pathlib import Path

from longreach.corpus.faults import explain_storage_faults
from longreach.corpus.integrity import FileLog
from longreach.corpus.schema import Settings
from longreach.corpus.tables import check_document, connect, read_passages
from longreach.errors import CorpusDamaged, CorpusError


@dataclass(frozen=True)
class VerifyReport:
    """What `Corpus.verify` found: one sentence a problem, and how much was looked at."""

    problems: list[str] = field(default_factory=list)
    documents: int = 0
    passages: int = 0
    files: int = 0

    @property
    def ok(self) -> bool:
        """Whether every stored byte is what was written."""
        return not self.problems


def verify(folder: Path) -> VerifyReport:
    """Checks files, then rows.

    The caller holds the lock, so that no writer is at work meanwhile.
    """
    try:
        with explain_storage_faults(folder):
            log = FileLog(folder)
            problems = log.check()
            files = len(log.files)
            # Lance may allocate what a damaged length says, so it is not given damaged files.
            if problems:
                return VerifyReport(
                    [*problems, "Rows were not checked, because of these files."], files=files
                )
            settings = Settings.load(folder)
            database = connect(folder)
            documents = database.open_table("documents").to_arrow().to_pylist()
            passages = read_passages(database, memory=False)
    except CorpusError as error:
        return VerifyReport([str(error)])
    for document in documents:
        mine = passages[document["revision"]]
        try:
            check_document(document, mine)
            if any(row["fingerprint"] != settings.fingerprint for row in mine):
                name = repr(document["document"])
                raise CorpusDamaged(
                    f"Document {name} holds memories of another compressor: add it again."
                )
        except CorpusDamaged as error:
            problems.append(str(error))
    return VerifyReport(problems, len(documents), sum(map(len, passages.values())), files)
