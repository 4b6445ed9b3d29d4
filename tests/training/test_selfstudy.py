"""Questions that a model makes of passages: the corpus' own, or one behind an endpoint that fails now and then."""

import itertools
import json
import re
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from longreach.corpus.schema import PassageInfo
from longreach.errors import TrainingError, UsageError
from longreach.training.study import teacher as teaching
from longreach.training.study.asking import KINDS
from longreach.training.study.junk import NO_ANSWER, NOT_IN_PASSAGE, fault_of_answer
from longreach.training.study.selfstudy import AuthorRequest, OwnModel, find_question, make_questions
from longreach.training.study.teacher import Endpoint
from tests.conftest import make_model, make_tokenizer
from tests.training.studied import make_corpus


def written(request):
    """A question of its own about every passage, and words of the passage for an answer."""
    if "Question:" in request.request:
        return " ".join(request.text.split()[:3])
    return f"What is told in part {zlib.crc32((request.text + request.request).encode())}?"


class Scripted:
    """An author that writes what it is told to, and stops after so many."""

    name = "scripted"

    def __init__(self, write=written, most=10**6):
        self._write, self.most, self.seen = write, most, []

    def write(self, requests):
        for number, request in enumerate(requests):
            if len(self.seen) == self.most:
                raise TrainingError("It does not answer.")
            self.seen.append(request)
            yield number, self._write(request)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("store"))


def make(corpus, author, path, **options):
    return make_questions(corpus, author, path, **({"say": lambda text: None} | options)).questions


def test_every_passage_is_asked_about_in_turn(corpus, tmp_path):
    numbers, lines = itertools.count(), []
    author = Scripted(lambda request: written(request).replace("part", f"part {next(numbers)} or"))
    made = make(corpus, author, tmp_path / "q.jsonl", per_passage=2, say=lines.append)
    passages = corpus.passages()
    assert [(q.document, q.passage) for q in made] == [(p.document, p.index) for p in passages for _ in range(2)]
    asked, answered = author.seen[: len(made)], author.seen[len(made) :]
    assert [request.text for request in asked] == [p.text for p in passages for _ in range(2)]
    kinds = [next(k for k, text in KINDS.items() if request.request.startswith(text)) for request in asked]
    assert kinds == [[*KINDS][i % 5] for i in range(len(made))]
    assert all(request.request.endswith(f"Question: {q.question}") for request, q in zip(answered, made, strict=True))
    assert {request.temperature for request in answered} == {0} and {r.temperature for r in asked} == {0.8}
    assert lines[-1] == f"answer {len(made)}/{len(made)}"


def test_what_was_written_is_kept_and_never_asked_for_again(corpus, tmp_path):
    path, whole = tmp_path / "q.jsonl", Scripted()
    wanted = make(corpus, whole, tmp_path / "other.jsonl")
    seen = []
    for most in (3, 0, len(wanted), 1):
        author = Scripted(most=most)
        with pytest.raises(TrainingError, match="does not answer"):
            make(corpus, author, path)
        seen += author.seen
    with path.open("ab") as file:
        file.write(b'{"job": ["scripted", 0, "cut o')  # a killed process wrote half of it
    author = Scripted()
    assert make(corpus, author, path) == wanted
    assert seen + author.seen == whole.seen
    assert make(corpus, Scripted(most=0), path) == wanted
    again = Scripted()
    make(corpus, again, path, seed=1)  # another seed, other questions
    assert len(again.seen) == len(whole.seen)


def test_a_line_without_its_end_is_written_again(corpus, tmp_path):
    """Else the next line would stand behind it, and all that comes after would be lost the next time."""
    path, whole = tmp_path / "q.jsonl", Scripted()
    wanted = make(corpus, whole, path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]).removesuffix(b"\n"))  # a killed process wrote all but the end
    assert make(corpus, Scripted(), path) == wanted
    assert make(corpus, Scripted(most=0), path) == wanted


def test_half_a_character_becomes_a_question_mark(corpus, tmp_path):
    """As JSON of a teacher may hold it, and as no tokenizer takes it."""

    def write(request):
        return written(request) + "\ud800" if "Question:" in request.request else "W\ud800hy?"

    made = make(corpus, Scripted(write), tmp_path / "q.jsonl")
    assert made[0].question == "W?" and made[0].answers[0].endswith("?")


def test_only_what_is_a_question_counts(corpus, tmp_path):
    said = iter(['\n Question: "Who was it?" \nMore.', "", " \n "])

    def write(request):
        answer = written(request)
        return f" {answer} " if "Question:" in request.request else next(said, answer)

    author = Scripted(write)
    made = make(corpus, author, tmp_path / "q.jsonl")
    assert made[0].question == "Who was it?" and made[0].answers == ("The queen is",)
    assert len(made) == len(corpus.passages()) - 2
    with pytest.raises(TrainingError, match="no question that can be used"):
        make(corpus, Scripted(lambda request: ""), tmp_path / "none.jsonl")
    for wrong in (0, 6):
        with pytest.raises(UsageError, match="1 to 5"):
            make(corpus, author, tmp_path / "q.jsonl", per_passage=wrong)


@pytest.mark.parametrize(
    "written, question",
    [
        ("What did Mr. Rabbit say?", "What did Mr. Rabbit say?"),
        ('The question: "Who was it, and why?" And more?', "Who was it, and why?"),
        ("\u201cWho?\u201d", "Who?"),
        ("1. **Question:** Who?", "Who?"),
        ("The text is long.\nQuestion 2: How long?", "How long?"),
        ("The text tells of a key.", ""),
        ("???", ""),
    ],
)
def test_the_question_is_found_in_what_was_written(written, question):
    assert find_question(written) == question


def test_the_own_model_asks_with_the_passage_in_view_and_always_the_same(corpus, tmp_path, monkeypatch):
    for longest in ("_LONGEST_QUESTION", "_LONGEST_ANSWER"):
        monkeypatch.setattr(f"longreach.training.study.selfstudy.{longest}", 8)
    monkeypatch.setattr(
        "longreach.training.study.selfstudy._ASKED", re.compile(r"(\S.*)")
    )  # a random model asks nothing
    for fault in ("fault_of_question", "fault_of_answer"):  # and answers nothing
        monkeypatch.setattr(f"longreach.training.study.selfstudy.{fault}", lambda *texts: None)
    model, tokenizer = make_model(), make_tokenizer()
    author = OwnModel(model, tokenizer, "own", batch_size=3)
    made = make(corpus, author, tmp_path / "one.jsonl")
    assert made and make(corpus, OwnModel(model, tokenizer, "own", batch_size=1), tmp_path / "two.jsonl") == made
    request = _request(corpus)
    prompt = author._prompt(request)
    ids = tokenizer(f"<|user|>{request.text}\n\n{request.request}<|end|><|assistant|>")["input_ids"]
    assert prompt.equal(model.get_input_embeddings().weight[ids])
    short = make_model(max_position_embeddings=256)
    cut = OwnModel(short, tokenizer, "own")._prompt(request)
    assert len(cut) == 256 - request.max_tokens < len(prompt)
    assert cut[-40:].equal(short.get_input_embeddings().weight[ids[-40:]])


def _request(corpus):
    return AuthorRequest(corpus.passages()[0].text * 3, "Ask something." * 3, 0.0, 64, 0)


def test_junk_is_dropped_and_counted(tmp_path):
    passage = "The Knave of Hearts stole the tarts in 1865, and he took them away. Who would do such a thing?"
    corpus = FakeReading([passage] * 9)
    questions = iter(
        [
            "Who stole the tarts?",
            "The text is about tarts.",
            "Write one question about one particular fact in the text above: a name?",
            "Who would do such a thing?",
            "Who stole the tarts ?",
            "\u8c01\u5077\u4e86\uff1f",
            "When was it?",
            "Who was it?",
            "What was taken?",
        ]
    )
    answers = {
        "When was it?": "In 1866.",
        "Who was it?": "Queen Elizabeth.",
        "What was taken?": "The tarts were taken.",
    }
    answers |= {"Who stole the tarts?": "It was the Knave of Hearts.", "\u8c01\u5077\u4e86\uff1f": "Knave"}

    def write(request):
        asked = request.request.partition("Question: ")[2]
        return answers[asked] if asked else next(questions)

    lines = []
    made = make_questions(corpus, Scripted(write), tmp_path / "q.jsonl", say=lines.append)
    kept = ["Who stole the tarts?", "\u8c01\u5077\u4e86\uff1f", "What was taken?"]
    assert [one.question for one in made.questions] == kept
    assert made.dropped == {
        "no question": 1, "copy of the request": 1, "copy of the passage": 1, "asked before": 1,
        "answer not in the passage": 2,
    }  # fmt: skip
    assert lines[0] == "question 0/9" and lines[-1].startswith("study: 6 of 9 questions dropped: 2 answer not in")


class FakeReading:
    """A corpus of one document whose passages are these."""

    name = "fake"

    def __init__(self, texts):
        self._texts = texts

    def passages(self):
        return [PassageInfo("book", at, 0, len(text), text, 9, 1, "rev") for at, text in enumerate(self._texts)]


@pytest.mark.parametrize(
    "answer, question, fault",
    [
        ("The Knave of Hearts.", "Who stole the tarts?", None),
        ("the KNAVE", "Who stole the tarts?", None),
        ("\u201cKnave\u201d", "Who stole the tarts?", None),
        ("The tarts were stolen by the Knave of Hearts in summer.", "What happened?", None),
        ("Paris", "Where?", NOT_IN_PASSAGE),
        ("It was Elizabeth.", "Who stole the tarts?", NOT_IN_PASSAGE),
        ("The Knave stole 12 tarts.", "How many?", NOT_IN_PASSAGE),
        ("I do not know.", "Who?", NOT_IN_PASSAGE),
        ("...", "Who?", NO_ANSWER),
    ],
)
def test_an_answer_says_what_the_passage_says(answer, question, fault):
    passage = "The Knave of Hearts, he stole the tarts, all on a summer day, and they were stolen by him alone."
    assert fault_of_answer(answer, question, passage) == fault


class Served:
    """A teacher on this machine; `fail` says what it answers to the n-th request instead of an answer, if anything."""

    def __init__(self, fail=lambda number: None):
        self.fail, self.bodies, self.headers = fail, [], []
        lock, served = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(served.bodies)
                    served.bodies.append(body | {"path": self.path})
                    served.headers.append(dict(self.headers))
                status = served.fail(number)
                said = written(AuthorRequest(*body["messages"][0]["content"].split("\n\n", 1), 0.0, 0, 0))
                text = json.dumps({"choices": [{"message": {"content": said}}]})
                data = (text if status in (None, 200) else "no").encode()
                self.send_response(status or 200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def serve():
    running = []

    def start(*arguments):
        running.append(Served(*arguments))
        return running[-1]

    yield start
    for served in running:
        served.close()


def endpoint(url, **options):
    return Endpoint(url, "big", **({"wait_seconds": 0.001} | options))


def test_a_teacher_is_asked_as_openai_would_be(corpus, tmp_path, serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    monkeypatch.setenv("LONGREACH_TEACHER_KEY", "secret")
    served = serve()
    made = make(corpus, endpoint(served.url), tmp_path / "q.jsonl")
    count = len(corpus.passages())
    assert len(made) == count and len(served.bodies) == 2 * count
    assert {body["path"] for body in served.bodies} == {"/v1/chat/completions"}
    assert {body["model"] for body in served.bodies} == {"big"}
    assert {header["Authorization"] for header in served.headers} == {"Bearer secret"}
    by_passage = {(p.document, p.index): p.text for p in corpus.passages()}
    assert all(by_passage[one.document, one.passage].lstrip().startswith(one.answers[0]) for one in made)
    monkeypatch.delenv("LONGREACH_TEACHER_KEY")
    list(endpoint(served.url + "/v1/").write([_request(corpus)]))
    assert served.headers[-1]["Authorization"] == "Bearer other" and served.bodies[-1]["path"] == "/v1/chat/completions"


def test_a_teacher_that_stumbles_is_asked_again(corpus, tmp_path, serve):
    served = serve(lambda number: {0: 500, 3: 429, 4: 503}.get(number))
    made = make(corpus, endpoint(served.url), tmp_path / "q.jsonl")
    assert len(made) == len(corpus.passages()) and len(served.bodies) == 2 * len(made) + 3


def test_a_teacher_that_goes_down_loses_nothing(corpus, tmp_path, serve):
    """What it gave is kept; run again, nothing is asked twice, and what comes is what would have come."""
    wanted = make(corpus, endpoint(serve().url), tmp_path / "whole.jsonl")
    served = serve(lambda number: 500 if number >= 7 else None)
    with pytest.raises(TrainingError, match=r"does not answer \(HTTP 500: no\): what it wrote so far is kept"):
        make(corpus, endpoint(served.url), tmp_path / "q.jsonl")
    assert len((tmp_path / "q.jsonl").read_text().splitlines()) == 7
    back = serve()
    assert make(corpus, endpoint(back.url), tmp_path / "q.jsonl") == wanted
    assert len(back.bodies) == 2 * len(wanted) - 7


def test_a_teacher_that_is_not_there_or_refuses(corpus, tmp_path, serve, monkeypatch):
    served = serve()
    served.close()
    monkeypatch.setattr(teaching, "_TRIES", 2)
    with pytest.raises(TrainingError, match=r"does not answer \(ConnectError.* run the same command again"):
        make(corpus, endpoint(served.url), tmp_path / "q.jsonl")
    refusing = serve(lambda number: 401)
    with pytest.raises(TrainingError, match=r"refuses \(HTTP 401: no\): check --teacher, .*LONGREACH_TEACHER_KEY"):
        make(corpus, endpoint(refusing.url, parallel=1), tmp_path / "q.jsonl")
    assert len(refusing.bodies) <= 2  # no use in asking again
    with pytest.raises(UsageError, match="not the address of a teacher"):
        Endpoint("localhost:8000", "big")
    with pytest.raises(UsageError, match="--teacher-model"):
        Endpoint("http://localhost:8000", None)


def test_another_kind_of_server_is_named():
    class Odd:
        status_code = 200

        @staticmethod
        def json():
            return {"choices": []}

    with pytest.raises(TrainingError, match="no OpenAI-compatible endpoint"):
        teaching._content(Odd, "http://x")
