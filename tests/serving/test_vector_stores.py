"""Files and vector stores with the official client: read in the background, searched, changed, deleted."""

import openai
import pytest

import longreach
from tests.serving.conftest import error_of, wait_for

BOOK = b"The Dormouse told a story about a treacle well. Alice asked what they lived on.\n" * 6
OTHER = b"The Gryphon danced with the Mock Turtle by the sea. The lobsters watched.\n" * 6


@pytest.fixture
def store(client):
    """An empty vector store."""
    made = client.vector_stores.create(name="stories", metadata={"team": "a"})
    yield made
    client.vector_stores.delete(made.id)


def upload(client, name, content):
    return client.files.create(file=(name, content), purpose="assistants")


def search(client, store, query, **more):
    return client.vector_stores.search(store.id, query=query, **more).data


def test_files_are_kept_as_they_were_sent(client):
    file = upload(client, "../../etc/book.txt", BOOK)
    assert (file.filename, file.bytes, file.purpose) == ("book.txt", len(BOOK), "assistants")
    again = upload(client, "copy.txt", BOOK)
    assert again.id != file.id and again.filename == "copy.txt"
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == BOOK
    assert {file.id, again.id} <= {found.id for found in client.files.list()}
    assert client.files.delete(file.id).deleted
    # The other file has the same bytes.
    assert client.files.content(again.id).read() == BOOK
    client.files.delete(again.id)
    with pytest.raises(openai.NotFoundError, match="no file"):
        client.files.retrieve(file.id)


def test_what_is_no_upload_is_refused(client, http):
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=("a.txt", b"a"), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="is empty"):
        upload(client, "a.txt", b"")
    with pytest.raises(openai.BadRequestError, match="no usable name"):
        upload(client, "..", b"a")
    response = http.post("/v1/files", data={"purpose": "assistants", "path": "/etc/passwd"})
    assert response.status_code == 400 and error_of(response)["param"] == "path"
    assert http.post("/v1/files", content=b"nonsense").status_code == 400


def test_a_vector_store_is_made_listed_changed_and_deleted(client, settings):
    made = client.vector_stores.create(name="Q3/reports", metadata={"year": "2026"})
    assert made.id.startswith("vs_") and made.name == "Q3/reports" and made.status == "completed"
    assert made.file_counts.total == 0 and made.longreach["corpus"] == "Q3-reports"
    assert made.id in {found.id for found in client.vector_stores.list()}
    assert "Q3-reports" in {model.id for model in client.models.list()}
    assert client.vector_stores.retrieve("Q3-reports").id == made.id
    changed = client.vector_stores.update(made.id, name="Third quarter", metadata={"year": "2027"})
    assert (changed.name, changed.metadata) == ("Third quarter", {"year": "2027"})
    with pytest.raises(openai.ConflictError):
        client.vector_stores.create(name="Q3/reports")
    assert client.vector_stores.delete(made.id).deleted
    assert not (settings.store / "Q3-reports").exists()
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.retrieve(made.id)


def test_a_file_is_read_searched_cited_and_taken_out(client, store, settings):
    file = upload(client, "book.txt", BOOK)
    member = client.vector_stores.files.create_and_poll(
        file_id=file.id, vector_store_id=store.id, attributes={"year": 1865, "kind": "novel"}, poll_interval_ms=50
    )
    assert (member.status, member.last_error, member.attributes["year"]) == ("completed", None, 1865)
    (found,) = search(client, store, "What did the Dormouse tell?", max_num_results=1)
    assert (found.file_id, found.filename) == (file.id, "book.txt")
    assert 0 < found.score < 1 and found.attributes == {"year": 1865, "kind": "novel"}
    place = found.longreach
    assert BOOK.decode()[place["start"] : place["end"]] == found.content[0].text
    with longreach.open("stories", settings.store) as session:
        assert session.corpus.document_text(place["document"]) == BOOK.decode()
    (content,) = client.vector_stores.files.content(file.id, vector_store_id=store.id)
    assert content.text == BOOK.decode()
    done = client.chat.completions.create(
        model="stories", messages=[{"role": "user", "content": "What did the Dormouse tell?"}]
    )
    assert {citation["file_id"] for citation in done.longreach["citations"]} == {file.id}
    assert client.vector_stores.files.delete(file.id, vector_store_id=store.id).deleted
    assert search(client, store, "What did the Dormouse tell?") == []
    assert client.vector_stores.retrieve(store.id).file_counts.total == 0
    with longreach.open("stories", settings.store) as session:
        assert session.documents() == []
    assert client.files.retrieve(file.id).id == file.id


def test_a_batch_reports_what_cannot_be_read(client, store):
    files = [upload(client, "a.txt", BOOK), upload(client, "b.md", OTHER), upload(client, "c.pdf", b"no pdf")]
    batch = client.vector_stores.file_batches.create_and_poll(
        vector_store_id=store.id, file_ids=[file.id for file in files], poll_interval_ms=50
    )
    assert batch.status == "completed"
    assert (batch.file_counts.completed, batch.file_counts.failed, batch.file_counts.total) == (2, 1, 3)
    (failed,) = client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id, filter="failed")
    assert failed.id == files[2].id and failed.last_error.code == "unsupported_file"
    assert failed.last_error.message.startswith("c.pdf is damaged or is not a .pdf file")
    page = client.vector_stores.files.list(store.id, limit=2, order="asc")
    listed = [member.id for member in page]
    assert sorted(listed) == sorted(file.id for file in files)
    client.files.delete(files[0].id)
    assert {found.filename for found in search(client, store, "What did the Dormouse tell?")} <= {"b.md"}


def test_filters_choose_documents(client, store):
    for name, content, year in (("old.txt", BOOK, 1865), ("new.txt", BOOK + b"Twice.", 2026)):
        client.vector_stores.files.create_and_poll(
            file_id=upload(client, name, content).id,
            vector_store_id=store.id,
            attributes={"year": year},
            poll_interval_ms=50,
        )
    query = "What did the Dormouse tell?"
    assert len({found.filename for found in search(client, store, query)}) == 2
    newer = {"type": "gt", "key": "year", "value": 1900}
    assert {found.filename for found in search(client, store, query, filters=newer)} == {"new.txt"}
    both = {"type": "and", "filters": [newer, {"type": "in", "key": "year", "value": [1865]}]}
    assert search(client, store, query, filters=both) == []
    assert search(client, store, query, ranking_options={"score_threshold": 1.0}) == []
    done = client.chat.completions.create(
        model="stories",
        messages=[{"role": "user", "content": query}],
        extra_body={"longreach": {"filters": newer}},
    )
    assert {citation["filename"] for citation in done.longreach["citations"]} == {"new.txt"}
    (member,) = client.vector_stores.files.list(store.id, limit=1).data
    changed = client.vector_stores.files.update(member.id, vector_store_id=store.id, attributes={"year": 1})
    assert changed.attributes == {"year": 1}


def test_an_unfinished_vector_store_answers_from_what_is_there_and_says_so(client, store, server, monkeypatch):
    first = upload(client, "book.txt", BOOK)
    client.vector_stores.files.create_and_poll(file_id=first.id, vector_store_id=store.id, poll_interval_ms=50)
    monkeypatch.setattr(server.service.ingesting, "wake", lambda: None)
    client.vector_stores.files.create(store.id, file_id=upload(client, "other.txt", OTHER).id)
    question = [{"role": "user", "content": "What did the Dormouse tell?"}]
    done = client.chat.completions.create(model="stories", messages=question)
    assert done.longreach["files_in_progress"] == 1
    assert {citation["filename"] for citation in done.longreach["citations"]} == {"book.txt"}


def test_documents_of_the_command_line_are_files_too(client):
    library = client.vector_stores.retrieve("library")
    members = {member.longreach["document"]: member for member in client.vector_stores.files.list(library.id)}
    assert set(members) == {"alice.txt", "tarts.txt"}
    (found, *_) = search(client, library, "Who stole the tarts?")
    assert found.file_id == members["tarts.txt"].id


def test_a_question_to_an_empty_vector_store_says_so(client, store):
    with pytest.raises(openai.UnprocessableEntityError, match="holds no documents"):
        client.chat.completions.create(model="stories", messages=[{"role": "user", "content": "Who?"}])


def test_what_does_not_exist_is_not_found(client, store):
    for call in (
        lambda: client.vector_stores.files.create("vs_none", file_id="file-none"),
        lambda: client.vector_stores.files.create(store.id, file_id="file-none"),
        lambda: client.vector_stores.files.retrieve("file-none", vector_store_id=store.id),
        lambda: client.vector_stores.file_batches.retrieve("vsfb_none", vector_store_id=store.id),
        lambda: client.vector_stores.delete("vs_none"),
        lambda: client.files.content("file-none"),
    ):
        with pytest.raises(openai.NotFoundError):
            call()


@pytest.mark.parametrize(
    "body, param",
    [
        ({"query": "a", "max_num_results": 51}, "max_num_results"),
        ({"query": " "}, "query"),
        ({"query": "a", "filters": {"type": "eq", "key": "k", "value": ["x"]}}, "filters"),
        ({"query": "a", "rewrite_query": True}, "rewrite_query"),
        ({"query": "a", "retriever": "x"}, "retriever"),
    ],
)
def test_searches_that_cannot_be_are_refused(http, body, param):
    response = http.post("/v1/vector_stores/library/search", json=body)
    assert response.status_code == 400 and error_of(response)["param"] == param


def test_lists_come_in_pages(client, http):
    files = [upload(client, f"{number}.txt", b"text %d" % number) for number in range(3)]
    pages = http.get("/v1/files", params={"limit": 2, "order": "asc"}).json()
    assert len(pages["data"]) == 2 and pages["has_more"]
    rest = http.get("/v1/files", params={"after": pages["last_id"], "order": "asc"}).json()
    assert not {file["id"] for file in rest["data"]} & {file["id"] for file in pages["data"]}
    for params in ({"limit": 0}, {"limit": 101}, {"after": "nothing"}, {"color": "red"}):
        assert http.get("/v1/files", params=params).status_code == 400
    for file in files:
        client.files.delete(file.id)


def test_a_cancelled_batch_leaves_nothing_in_progress(client, store):
    files = [upload(client, f"{number}.txt", BOOK + b"%d" % number) for number in range(6)]
    batch = client.vector_stores.file_batches.create(store.id, file_ids=[file.id for file in files])
    client.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id)
    counts = wait_for(lambda: (found := client.vector_stores.retrieve(store.id).file_counts).in_progress == 0 and found)
    assert counts.completed + counts.cancelled == 6
