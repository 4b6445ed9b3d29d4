"""A corpus with its model: opened, made, asked, studied, shared by threads and closed."""

import gc
import json
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

import longreach
from longreach import Document, Policy, Reader, Sampling, Session
from longreach.datasets.questions import Question
from longreach.errors import CorpusNotFound, DataError, FingerprintMismatch, UsageError
from longreach.evals.suites.docqa.suite import DocumentSuite
from longreach.models.sharing import exclusive
from longreach.session import workspace
from longreach.training.study.questions import StudyQuestions
from longreach.training.study.settings import StudySettings
from tests.conftest import make_model, make_tokenizer

TARTS = Document("tarts", "The Knave of Hearts stole the tarts. The King was angry.\n" * 6)
ALICE = Document("alice", "Alice fell down the rabbit hole. She was very surprised.\n" * 6)
SHORT = Sampling(4)
FEW = {"policy": Policy(budget=900), "sampling": SHORT}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    make_model(max_position_embeddings=4096).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def store(tmp_path, base):
    """A store with the corpus 'library'."""
    with longreach.open(
        "library", tmp_path, base, compressor="mean-pool", ratio=10, segment_tokens=64, device="cpu"
    ) as session:
        session.add([TARTS, ALICE])
    return tmp_path


@pytest.fixture
def loads(monkeypatch):
    """The models that were loaded."""
    loaded = []
    for name in ("load", "load_named"):
        real = getattr(workspace, name)

        def load(ref, *, _real=real, **options):
            loaded.append(ref)
            return _real(ref, **options)

        monkeypatch.setattr(workspace, name, load)
    return loaded


def test_a_corpus_is_made_asked_and_read_again(tmp_path, base):
    with longreach.open("c", tmp_path, base, create=True, ratio=10, segment_tokens=64, device="cpu") as session:
        assert isinstance(session, Session)
        report = session.add([TARTS, "A text may be given as it is, about the dormouse in the teapot."])
        assert len(report.added) == 2
        answer = session.ask("Who stole the tarts?", **FEW)
        assert answer.passages[0].document == "tarts" and answer.usage.vectors
    with longreach.open("c", tmp_path, device="cpu") as session:
        assert session.ask("Who stole the tarts?", **FEW).text == answer.text
        stream = session.stream("Who stole the tarts?", **FEW)
        assert "".join(stream).strip() == answer.text
        first, second = session.ask_many(["Who stole the tarts?", "The dormouse?"], **FEW)
        assert first.text == answer.text and second.passages[0].document.startswith("text-")


def test_reading_loads_no_model_until_a_question_comes(store, loads):
    with longreach.open("library", store, device="cpu") as session:
        assert [document.document for document in session.documents()] == ["alice", "tarts"]
        assert session.search("Who stole the tarts?", k=1)[0].document == "tarts"
        assert session.corpus.compressor is None and loads == []
        session.ask("Who stole the tarts?", **FEW)
        session.ask("Who was angry?", **FEW)
        assert len(loads) == 1 and session.corpus.compressor is None


def test_adding_after_asking_uses_the_model_that_is_there(store, loads):
    with longreach.open("library", store, device="cpu") as session:
        before = session.ask("Who stole the tarts?", **FEW)
        model = session.model
        assert session.add(Document("duchess", "The duchess has a pepper mill. " * 9)).added == ["duchess"]
        assert session.corpus.compressor is not None and session.model is model and len(loads) == 1
        assert session.ask("What has the duchess?", **FEW).passages[0].document == "duchess"
        assert session.ask("Who stole the tarts?", **FEW).text == before.text
        assert session.corpus.verify().ok


def test_a_model_of_another_dtype_is_not_used_to_add(store, loads):
    with longreach.open("library", store, device="cpu", dtype="bfloat16") as session:
        session.ask("Who stole the tarts?", **FEW)
        session.add(Document("duchess", "The duchess has a pepper mill. " * 9))
        assert len(loads) == 2 and str(session.model.dtype) == "torch.float32"
        assert session.ask("What has the duchess?", **FEW).passages[0].document == "duchess"
        assert session.corpus.verify().ok


def test_a_corpus_is_made_only_where_that_is_asked_for(tmp_path, base):
    with pytest.raises(CorpusNotFound, match="library"):
        longreach.open("library", tmp_path)
    with longreach.open("library", tmp_path, base, create=True, device="cpu") as session:
        with pytest.raises(CorpusNotFound):
            session.documents()
        with pytest.raises(CorpusNotFound):
            session.ask("why?")
        report = session.add([tmp_path / "mistyped.txt"])
        assert report.skipped and not report.added
        assert list(tmp_path.iterdir()) == []  # no empty corpus that holds on to these settings
        session.add(TARTS)
        assert len(session.documents()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "a/b"}, "a/b"),
        ({"device": "toaster"}, "toaster"),
        ({"dtype": "int3"}, "int3"),
        ({"compressor": "zip"}, "no compressor 'zip'"),
        ({"compressor": "mean-pool", "mode": "replace"}, "mode"),
    ],
)
def test_what_cannot_be_is_refused_before_torch_is_imported(tmp_path, options, words):
    with pytest.raises(UsageError, match=words):
        longreach.open(**({"name": "library", "store": tmp_path} | options))
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import longreach\n"
        f"options = { ({'name': 'library', 'store': str(tmp_path)} | options)!r}\n"
        "try:\n    longreach.open(**options)\n"
        "except longreach.errors.UsageError:\n    sys.exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7


def test_other_settings_than_the_corpus_was_made_with_are_refused(store, tmp_path, base):
    for settings in ({"ratio": 20}, {"compressor": "mean-pool", "ratio": 20}):
        with pytest.raises(UsageError, match="made with ratio 10"):
            longreach.open("library", store, **settings)
    longreach.open("library", store, compressor="mean-pool", ratio=10)
    with pytest.raises(UsageError, match="made with mean-pool, which has no mode"):
        longreach.open("library", store, mode="replace")
    other = tmp_path / "other"
    make_model(seed=5).save_pretrained(other)
    make_tokenizer().save_pretrained(other)
    with longreach.open("library", store, str(other), device="cpu") as session, pytest.raises(FingerprintMismatch):
        session.ask("Who stole the tarts?")


def test_a_document_that_is_not_there_is_refused_before_a_model_is_loaded(store, loads):
    with longreach.open("library", store, device="cpu") as session:
        with pytest.raises(UsageError, match="no document 'hatter'"):
            session.ask("Who?", document="hatter")
        with pytest.raises(UsageError, match="no document 'hatter'"):
            session.search("Who?", document="hatter")
        assert loads == []
        assert session.ask("Who?", document="alice", **FEW).passages[0].document == "alice"


def test_a_closed_session_says_so(store):
    with longreach.open("library", store, device="cpu") as session:
        session.ask("Who stole the tarts?", **FEW)
    for use in (
        session.documents,
        lambda: session.search("tarts"),
        lambda: session.ask("tarts?"),
        lambda: session.add(TARTS),
        session.undo_study,
    ):
        with pytest.raises(UsageError, match="is closed: open another one"):
            use()
    session.close()  # once more does no harm


def test_closing_releases_the_model(store):
    with longreach.open("library", store, device="cpu") as session:
        session.ask("Who stole the tarts?", **FEW)
        model = weakref.ref(session.model)
    for _ in range(100):
        gc.collect()  # the engine's thread lets go of it a moment after the answer
        if model() is None:
            return
        time.sleep(0.05)
    pytest.fail("the model is still held")


def test_threads_load_the_model_once_and_get_what_one_gets(store, loads):
    questions = ["Who stole the tarts?", "Who was angry?", "Who fell down?", "Who was surprised?"]
    with longreach.open("library", store, device="cpu") as session:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda question: session.ask(question, **FEW).text, questions))
        assert len(loads) == 1
        assert together == [session.ask(question, **FEW).text for question in questions]


@pytest.fixture
def short_answers(monkeypatch):
    from longreach.session import study

    real = study.gate
    monkeypatch.setattr(study, "gate", lambda *args, **more: real(*args, **more, max_new_tokens=4))


def test_whoever_holds_the_model_may_ask_while_another_thread_opens_the_reader(store, monkeypatch):
    real = Reader.__init__
    begun = threading.Event()

    def init(self, corpus, model, *parts, **options):
        begun.set()
        with exclusive(model):  # as where an adapter is laid over it
            real(self, corpus, model, *parts, **options)

    monkeypatch.setattr(Reader, "__init__", init)
    session = longreach.open("library", store)  # closing would wait where asking does
    model, answers = session.model, []

    def ask():
        answers.append(session.ask("Who stole the tarts?", **FEW).text)

    def ask_with_the_model():
        with exclusive(model):
            other = threading.Thread(target=ask, daemon=True)
            other.start()
            begun.wait(20)
            ask()
        other.join(20)

    thread = threading.Thread(target=ask_with_the_model, daemon=True)
    thread.start()
    thread.join(30)
    assert len(answers) == 2 and answers[0] == answers[1]
    session.close()


def test_a_reader_that_was_made_of_what_has_changed_meanwhile_is_made_again(store, monkeypatch):
    real = Reader.__init__
    made = []

    def init(self, *parts, **options):
        made.append(self)
        if len(made) == 1:
            session.forget_reader()
        real(self, *parts, **options)

    monkeypatch.setattr(Reader, "__init__", init)
    with longreach.open("library", store) as session:
        assert session.reader is made[1] and len(made) == 2


def test_a_study_and_its_undoing_change_what_is_read_next(store, short_answers):
    questions = [
        Question(name, f"Question {n}: who?", ("The Knave.",)) for n in range(3) for name in ("alice", "tarts")
    ]
    lines = []
    with longreach.open("library", store, device="cpu") as session:
        assert session.reader.adapter is None and session.reader.scorecard is None
        result = session.study(questions, settings=StudySettings(epochs=1), say=lines.append)
        assert result.training.questions == 5 and result.scorecard.questions == 1 and result.dropped == {}
        assert lines[0] == "study: loading the model of 'library'"
        assert "study: 5 questions to learn, 1 to test on" in lines
        assert session.reader.adapter is not None
        assert session.reader.scorecard == result.scorecard
        assert not session.undo_study().scorecard
        assert session.reader.adapter is None and session.reader.scorecard is None
        assert session.corpus.verify().ok


def test_a_gate_alone_trains_nothing(store, short_answers):
    tested = [Question("tarts", "Who stole the tarts?", ("The Knave.",))]
    with longreach.open("library", store, device="cpu") as session:
        result = session.study(StudyQuestions(tested=tested), gate_only=True, say=lambda line: None)
        assert result.training is None and result.to_dict()["training"] is None
        assert session.reader.adapter is None and session.reader.scorecard == result.scorecard


def test_questions_are_checked_before_a_model_is_loaded(store, loads, tmp_path):
    with longreach.open("library", store, device="cpu") as session:
        with pytest.raises(DataError, match="nowhere"):
            session.study(tmp_path / "nowhere.jsonl")
        with pytest.raises(UsageError, match="cannot both be learned and tested"):
            session.study([Question(None, "Who?", ("The Knave.",))])
        with pytest.raises(UsageError, match="address of a teacher"):
            session.study(StudyQuestions(teacher="nonsense"))
    assert loads == []
    for wrong in ({"held_out": 1.5}, {"per_passage": 0}, {"teacher": "http://x", "learned": "y"}):
        with pytest.raises(UsageError):
            StudyQuestions(**wrong)


def test_an_evaluation_asks_about_the_documents_and_resumes(store, tmp_path, loads):
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"question": "Who stole the tarts?", "answer": "The Knave.", "document": "tarts"}))
    lines = []
    with longreach.open("library", store, device="cpu") as session:
        with pytest.raises(UsageError, match="no system 'guess'"):
            session.evaluate(asked, tmp_path / "run", systems=["guess"])
        with pytest.raises(UsageError, match="has its vectors"):
            session.evaluate(DocumentSuite(questions=asked, ratio=4), tmp_path / "run")
        with pytest.raises(UsageError, match="is no run"):
            session.evaluate(asked, tmp_path)
        assert loads == []
        suite = DocumentSuite(questions=asked, max_new_tokens=4)
        scores = session.evaluate(suite, tmp_path / "run", systems=["none", "compressed"], say=lines.append)
        assert [row["reader"] for row in scores["rows"]] == ["none", "compressed"] and lines
        again = session.evaluate(suite, tmp_path / "run", systems=["none", "compressed"], say=lines.append)
        assert again == scores
