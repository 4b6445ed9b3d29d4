"""`open`: a corpus, its memory and the model that answers from it, as one object.

Imports no torch.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from longreach.corpus.documents import Document, Limits, Selection
from longreach.corpus.place import store_folder
from longreach.corpus.schema import AddReport, DocumentInfo, check_name
from longreach.corpus.search.retrieval import Passage
from longreach.corpus.store import Corpus
from longreach.engine.sampling import Sampling
from longreach.jsontext import JsonObject
from longreach.models.device import check_device_name, check_dtype_name
from longreach.reading.policy import Policy
from longreach.session.loading import OpenCorpus
from longreach.session.unreadable import Source, explain_unreadable
from longreach.training.study.questions import Given, StudyQuestions
from longreach.training.study.settings import StudySettings

if TYPE_CHECKING:
    from longreach.compressors.method import Value
    from longreach.engine.turns import Turn
    from longreach.evals.suites.base import Suite
    from longreach.reading.answer import Answer, AnswerStream
    from longreach.session.study import StudyResult
    from longreach.training.study.undo import Undone


class Session(OpenCorpus):
    """An open corpus with its model; made by `longreach.open`.

    What needs no model loads none: `search` and `documents` read the corpus only. The model is
    loaded when a question, a document or a study first needs it, and the compressor by `add`.
    Threads may share a session. It is a context manager that closes itself.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def documents(self) -> list[DocumentInfo]:
        """Returns the documents of the corpus, sorted by name."""
        return self.corpus.documents()

    def search(
        self, question: str, k: int = 5, retriever: str = "bm25", document: str | None = None
    ) -> list[Passage]:
        """Returns the `k` passages nearest to a question, best first; needs no model.

        Args:
            question: The question.
            k: Passages at most.
            retriever: "bm25", "dense" or "hybrid".
            document: Search only this one: a name, or the end of a path.

        Raises:
            UsageError: There is no such document or retriever.
        """
        return self.corpus.search(question, k, retriever, document)

    def add(
        self,
        sources: Source | Sequence[Source],
        *,
        prune: bool = False,
        force: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        follow_links: bool = False,
        limits: Limits | None = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> AddReport:
        """Reads documents once and keeps what they become; see `Corpus.add`.

        A corpus that is to be made is made here, once one document can be read: a mistyped path
        leaves no empty corpus behind. The compressor is loaded now.

        Args:
            sources: Files, folders, texts or documents; one alone need not be in a list.
            prune: Remove documents whose files lay under `sources` and no longer exist.
            force: Prune even where most documents of a folder would go.
            include: Of the files in folders, only those that match one of these patterns.
            exclude: Of the files in folders, none that match one of these.
            follow_links: Follow links in folders.
            limits: What one file may cost.
            batch_size: Segments in one forward pass; None chooses by device.
            progress: Show a bar on stderr.

        Raises:
            UsageError: See `Corpus.add`.
            FingerprintMismatch: The model or compressor is not the one the corpus was made with.
            StorageError: The store cannot be written to.
        """
        self.check_open()
        # A string is a sequence of strings too, so one source has to be told apart first.
        given = [sources] if isinstance(sources, str | Path | Document) else list(sources)
        if self._corpus is None and self.name not in Corpus.names(self.store):
            selection = Selection.of(include, exclude, follow_links)
            unreadable = explain_unreadable(given, selection, limits or Limits())
            if unreadable is not None:
                return unreadable
        return self.open_to_add().add(
            given,
            prune=prune,
            force=force,
            include=include,
            exclude=exclude,
            follow_links=follow_links,
            limits=limits,
            batch_size=batch_size,
            progress=progress,
        )

    def ask(
        self,
        question: str,
        *,
        document: str | None = None,
        policy: Policy | None = None,
        sampling: Sampling | None = None,
    ) -> "Answer":
        """Returns the answer to a question; see `Reader.ask` for the errors.

        Args:
            question: The question.
            document: The document it is about: a name, or the end of a path. None leaves finding
                it to the retriever.
            policy: What to read for it; None takes what `open` was given, else what `study` found
                best, else `Policy()`.
            sampling: How to write.
        """
        stream = self.stream(question, document=document, policy=policy, sampling=sampling)
        for _ in stream:
            pass
        assert stream.answer is not None
        return stream.answer

    def stream(
        self,
        question: str,
        *,
        document: str | None = None,
        policy: Policy | None = None,
        sampling: Sampling | None = None,
        history: "Sequence[Turn]" = (),
        among: Collection[str] | None = None,
    ) -> "AnswerStream":
        """Like `ask`, but gives the text piece by piece; see `Reader.stream` for the arguments."""
        if document is not None:
            # Before a model is loaded for a document that is not there.
            document = self.corpus.resolve(document)
        return self.reader.stream(
            question,
            document=document,
            policy=policy,
            sampling=sampling,
            history=history,
            among=among,
        )

    def ask_many(
        self,
        questions: Sequence[str],
        *,
        documents: Sequence[str | None] | None = None,
        policy: Policy | Sequence[Policy] | None = None,
        sampling: Sampling | None = None,
        batch_size: int = 8,
    ) -> "list[Answer]":
        """Returns the answers to questions, written in batches; see `Reader.ask_many`.

        Args:
            questions: The questions.
            documents: The document of each, or None.
            policy: What to read, for all of them or for each.
            sampling: How to write.
            batch_size: Questions answered together.
        """
        return self.reader.ask_many(
            questions,
            documents=documents,
            policy=policy,
            sampling=sampling,
            batch_size=batch_size,
        )

    def study(
        self,
        questions: Given | StudyQuestions | None = None,
        *,
        settings: StudySettings | None = None,
        gate_only: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> "StudyResult":
        """Trains an adapter for the corpus, and measures which way of reading answers best.

        Stopped anywhere, the same call resumes. The scorecard goes into the corpus, and from then
        on `ask` reads in the way that was found best.

        Args:
            questions: A file of JSON lines, or questions with their answers; None has the corpus'
                own model make some about every passage. `StudyQuestions` say more.
            settings: How the adapter is trained.
            gate_only: Measure without training.
            say: Is told how it goes, a line at a time; None writes to stderr.

        Returns:
            What the training did, the scorecard, and how many made questions were dropped.

        Raises:
            UsageError: There are too few questions, or the budget does not fit the window.
            DataError: A file of questions cannot be read.
            CorpusBusy: Another process studies this corpus.
            TrainingError: Memory or the disk was full, or a loss was not finite.
        """
        from longreach.session.study import run_study

        if not isinstance(questions, StudyQuestions):
            questions = StudyQuestions(questions)
        result = run_study(self, questions, settings or StudySettings(), gate_only, say)
        # The reader that exists holds the adapter and the policy from before the study.
        self.forget_reader()
        return result

    def evaluate(
        self,
        suite: "str | Path | Suite",
        out: str | Path,
        *,
        systems: Sequence[str] = (),
        batch_size: int = 1,
        beyond_window: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> JsonObject:
        """Asks questions in several ways of answering and scores the answers; resumes a run.

        Args:
            suite: A file of questions about the documents, as JSON lines; or a suite with its
                options, such as `DocumentSuite` or another that asks the model itself.
            out: Folder of the run: a new one, or that of the same run, which is resumed.
            systems: Ways of answering, as `longreach eval` names them; empty takes the suite's own
                choice.
            batch_size: Samples answered together.
            beyond_window: Whether lengths are read that the model was not made for.
            say: Is told how far it is, a line at a time; None writes to stderr.

        Returns:
            What is in scores.json of the run: {"rows": [...]}.

        Raises:
            UsageError: There is no such system, or the folder is another run's.
            DataError: A file of questions cannot be read.
        """
        from longreach.evals.run.subject import RunOptions
        from longreach.evals.suites.docqa.suite import DocumentSuite
        from longreach.session.evaluation import evaluate_corpus
        from longreach.wording import say_on_stderr

        if isinstance(suite, str | Path):
            suite = DocumentSuite(questions=Path(suite))
        options = RunOptions(
            Path(out), say or say_on_stderr, batch_size=batch_size, beyond_window=beyond_window
        )
        return evaluate_corpus(self, suite, systems, options)

    def undo_study(self) -> "Undone":
        """Takes the last study back: the adapter and the scorecard from before it return.

        Raises:
            UsageError: There is no study to take back.
            CorpusBusy: Another process studies this corpus.
        """
        from longreach.training.study.folder import working
        from longreach.training.study.undo import undo

        corpus = self.corpus
        # A study that runs meanwhile would put its adapter over what is taken back.
        with working(corpus):
            undone = undo(corpus)
        # The reader that exists holds the adapter and the policy that were just taken back.
        self.forget_reader()
        return undone


def open(
    name: str,
    store: str | Path | None = None,
    model: str | None = None,
    *,
    create: bool = False,
    compressor: str | None = None,
    adapter: str | Path | None = None,
    policy: Policy | None = None,
    device: str | None = None,
    dtype: str | None = None,
    **settings: "Value",
) -> Session:
    """Opens a corpus with its model.

        with longreach.open("library") as session:
            session.add(["book.txt"])
            print(session.ask("Who stole the tarts?").text)

    A corpus that does not exist is made only where that is asked for: with `create`, or by naming a
    compressor. It is made by the first `add` that can read a document, as `longreach ingest` does.

    Args:
        name: The corpus.
        store: Where corpora live; None takes $LONGREACH_STORE, else the user's data folder.
        model: Hub id, folder, .gguf file or "smollm2"; None takes the one that the corpus was made
            with, and for a new corpus that of its compressor, else "smollm2".
        create: Whether to make the corpus where there is none.
        compressor: What makes the memory of a new corpus: a method that needs no training, a
            trained compressor that ships, or the folder of one. None takes the best that ships for
            the model.
        adapter: Folder of a PEFT adapter to answer with; None takes the corpus' own.
        policy: What to read for a question; None takes what `study` found best.
        device: Where the model is put; None takes the GPU where there is one.
        dtype: Of the model while it only reads; None takes float32 on a CPU, bfloat16 on a GPU.
            Documents are added in the dtype of those that are there.
        **settings: Options of the compressor of a new corpus, such as `ratio`.

    Raises:
        CorpusNotFound: There is no such corpus, and none is to be made.
        UsageError: No corpus can have that name, an option has a value that cannot be, or the
            corpus was made with another compressor.
    """
    from longreach.compressors.registry import check_reference, find_method

    # What can be refused is refused here, before a model is loaded for nothing.
    check_name(name)
    if device is not None:
        check_device_name(device)
    if dtype is not None:
        check_dtype_name(dtype)
    if compressor is not None:
        check_reference(compressor)
        find_method(compressor).check(settings)
    return Session(
        name,
        store_folder(store),
        model=model,
        compressor=compressor,
        settings=settings,
        # Whoever names a compressor asks for a corpus that is made with it.
        create=create or compressor is not None,
        adapter=Path(adapter) if adapter is not None else None,
        policy=policy,
        device=device,
        dtype=dtype,
    )
