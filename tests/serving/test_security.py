"""Who may ask, from where, and how much; and what never leaves the server."""

import json
import logging

import openai
import pytest

from longreach.errors import UsageError
from longreach.serving.problems import Problem
from longreach.serving.security.keys import ApiKey, KeyRing, add_key, hash_key
from longreach.serving.security.limits import Bucket, Limits
from longreach.serving.settings import ServeSettings, is_loopback
from longreach.serving.uploads import clean_filename
from tests.serving.conftest import error_of, make_corpus, make_settings, running

MESSAGES = [{"role": "user", "content": "Who stole the tarts?"}]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory, base):
    """A server with two keys, and those keys."""
    folder = tmp_path_factory.mktemp("keyed")
    make_corpus(folder / "store", base)
    file = folder / "keys.jsonl"
    keys = {
        "anna": add_key(file, "anna"),
        "few": add_key(file, "few", requests_per_minute=2),
        "short": add_key(file, "short", tokens_per_minute=10),
    }
    settings = make_settings(
        folder / "store", base, api_keys=file, max_upload_bytes=1 << 20, max_body_bytes=1 << 16, max_files=3
    )
    with running(settings) as found:
        yield found, keys


# -- keys


def test_a_key_is_kept_as_its_hash(tmp_path):
    file = tmp_path / "keys.jsonl"
    key = add_key(file, "anna", requests_per_minute=5)
    assert key not in file.read_text() and hash_key(key) in file.read_text()
    assert (file.stat().st_mode & 0o077) == 0
    ring = KeyRing.load(file)
    assert ring.find(key) == ApiKey("anna", hash_key(key), 5, None)
    assert ring.find(key[:-1]) is None and ring.find("") is None
    with pytest.raises(UsageError, match="a key 'anna'"):
        add_key(file, "anna")


@pytest.mark.parametrize(
    "line",
    [
        "lr-in-the-clear",
        '{"name": "a"}',
        '{"name": "a", "hash": "lr-in-the-clear"}',
        '{"name": "a", "hash": "sha256:%s", "admin": true}' % ("0" * 64),
        '{"name": "a", "hash": "sha256:%s", "requests_per_minute": 0}' % ("0" * 64),
        "",
    ],
)
def test_files_that_hold_no_keys_are_refused(tmp_path, line):
    file = tmp_path / "keys.jsonl"
    file.write_text(line)
    with pytest.raises(UsageError):
        KeyRing.load(file)


def test_every_key_is_compared(monkeypatch):
    """The time of a comparison must not tell where a key was found."""
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append(b) or a == b)
    ring = KeyRing([ApiKey(name, hash_key(name)) for name in "abc"])
    assert ring.find("a").name == "a" and len(compared) == 3


def test_without_a_key_nothing_is_answered(keyed):
    server, keys = keyed
    with server.http() as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {keys['anna']}"}):
            for path in ("/v1/models", "/v1/files", "/metrics", "/nothing"):
                response = http.get(path, headers=headers)
                assert response.status_code == 401 and error_of(response)["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"] == "Bearer"
        assert http.get("/health").json() == {"status": "ok"}
        assert http.get("/ready").status_code == 200
    assert server.client(keys["anna"]).models.list().data
    with pytest.raises(openai.AuthenticationError):
        server.client("wrong").models.list()


def test_a_key_has_its_limits(keyed):
    server, keys = keyed
    few = server.client(keys["few"])
    few.models.list()
    few.models.list()
    with pytest.raises(openai.RateLimitError) as error:
        few.models.list()
    assert error.value.code == "rate_limit_exceeded"
    assert 1 <= int(error.value.response.headers["retry-after"]) <= 30
    short = server.client(keys["short"])
    short.chat.completions.create(model="library", messages=MESSAGES)
    with pytest.raises(openai.RateLimitError):
        short.models.list()
    assert server.client(keys["anna"]).models.list().data


def test_an_allowance_fills_up_evenly():
    now = [0.0]
    bucket = Bucket(60, lambda: now[0])
    bucket.take(60)
    assert bucket.wait_seconds(1) == pytest.approx(1)
    now[0] = 1.0
    assert bucket.wait_seconds(1) == 0
    bucket.take(31)
    assert bucket.wait_seconds(1) == pytest.approx(31)
    now[0] = 1000.0
    bucket.take(60)
    assert bucket.wait_seconds(1) == pytest.approx(1)
    limits = Limits()
    key = ApiKey("a", "", requests_per_minute=1)
    limits.check(key)
    with pytest.raises(Problem):
        limits.check(key)
    limits.check(ApiKey("b", "", requests_per_minute=1))


# -- where it listens, and who may ask


def test_without_keys_only_this_machine_may_ask(tmp_path):
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert ServeSettings(tmp_path, host=host).host == host
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org", ""):
        assert not is_loopback(host)
        with pytest.raises(UsageError, match="Without API keys"):
            ServeSettings(tmp_path, host=host)
        assert ServeSettings(tmp_path, host=host, api_keys=tmp_path / "keys").host == host


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8000", "", "a b"])
def test_a_name_that_was_bound_anew_is_refused(http, host):
    response = http.get("/v1/models", headers={"Host": host})
    assert response.status_code in (400, 403)
    if response.status_code == 403:
        assert error_of(response)["code"] == "host_not_allowed"


def test_the_server_goes_by_its_own_names(http, server):
    port = server.address.rpartition(":")[2]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", "[::1]:80", "LOCALHOST"):
        assert http.get("/v1/models", headers={"Host": host}).status_code == 200


def test_scripts_of_other_pages_are_refused(http, server):
    for origin in ("https://evil.example", "null", server.address.replace("http", "https")):
        response = http.post(
            "/v1/chat/completions", headers={"Origin": origin}, json={"model": "library", "messages": MESSAGES}
        )
        assert response.status_code == 403 and error_of(response)["code"] == "origin_not_allowed"
        assert "access-control-allow-origin" not in response.headers
    assert http.get("/v1/models", headers={"Origin": server.address}).status_code == 200


def test_origins_that_are_allowed_may_ask(tmp_path, base):
    settings = make_settings(tmp_path, base, allowed_origins=("https://app.example",))
    with running(settings) as server, server.http() as http:
        response = http.get("/v1/models", headers={"Origin": "https://app.example"})
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        assert http.options("/v1/models", headers=asked).status_code == 200
        assert http.get("/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403


def test_every_response_has_security_headers(http):
    for path in ("/health", "/v1/models", "/nothing"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store" and "server" not in headers


# -- sizes


def test_bodies_and_uploads_have_their_limits(keyed):
    server, keys = keyed
    client = server.client(keys["anna"])
    with pytest.raises(openai.APIStatusError) as error:
        client.files.create(file=("big.txt", b"a" * ((1 << 20) + 1)), purpose="assistants")
    assert error.value.status_code == 413
    with pytest.raises(openai.APIStatusError) as error:
        client.files.create(file=("big.txt", b"a" * (2 << 20)), purpose="assistants")
    assert error.value.status_code == 413
    with pytest.raises(openai.APIStatusError) as error:
        client.chat.completions.create(model="library", messages=[{"role": "user", "content": "a" * (1 << 17)}])
    assert error.value.status_code == 413

    def endless():
        for _ in range(100):
            yield b" " * (1 << 10)

    with server.http(headers={"Authorization": f"Bearer {keys['anna']}"}) as http:
        response = http.post("/v1/chat/completions", content=endless(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413 and error_of(response)["code"] == "request_too_large"
    files = [client.files.create(file=("a.txt", b"%d" % number), purpose="assistants") for number in range(3)]
    with pytest.raises(openai.APIStatusError, match="keeps no more files"):
        client.files.create(file=("a.txt", b"4"), purpose="assistants")
    for file in files:
        client.files.delete(file.id)
    folder = server.service.database.folder / "files"
    assert list(folder.iterdir()) == []


# -- names and logs


@pytest.mark.parametrize(
    "given, kept",
    [
        ("../../etc/passwd.txt", "passwd.txt"),
        ("C:\\Users\\anna\\lease.docx", "lease.docx"),
        ("a\x00b\x1b[31m.txt", "ab[31m.txt"),
        ("\u202egpj.txt", "gpj.txt"),
        ("x" * 300 + ".pdf", "x" * 196 + ".pdf"),
        ("été.md", "été.md"),
    ],
)
def test_names_of_files_lose_folders_and_what_is_not_printed(given, kept):
    assert clean_filename(given) == kept


@pytest.mark.parametrize("given", ["", "..", "/", "...", "\u200b", "a/\ud800"])
def test_names_of_which_nothing_is_left_are_refused(given):
    with pytest.raises(Problem):
        clean_filename(given)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/..%2F..%2Fstate.sqlite/content",
        "/v1/files/%2e%2e/content",
        "/v1/vector_stores/..%2F..%2Fetc",
        "/v1/vector_stores/.serving",
        "/v1/models/../../etc/passwd",
        "/v1/models/%2Fetc%2Fpasswd",
        "/v1/vector_stores/library%00",
    ],
)
def test_no_path_of_a_client_is_followed(http, path):
    assert http.get(path).status_code in (400, 404)


def test_a_client_learns_no_folder_of_the_server(http, server, settings, base):
    asked = {"model": "library", "messages": MESSAGES}
    said = [http.post("/v1/chat/completions", json=asked).text]
    said += [http.get(path).text for path in ("/v1/models", "/openapi.json")]
    store = http.get("/v1/vector_stores/library").json()
    said.append(http.get(f"/v1/vector_stores/{store['id']}/files").text)
    said.append(http.get("/v1/models/nothing").text)
    for text in said:
        assert str(settings.store) not in text and base not in text


def test_the_log_holds_no_words_of_clients(keyed, caplog):
    server, keys = keyed
    client = server.client(keys["anna"])
    secret = "Who stole the tarts in Ruritania?"
    caplog.set_level(logging.DEBUG, "longreach.serving")
    done = client.chat.completions.create(model="library", messages=[{"role": "user", "content": secret}])
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve("file-Ruritania")
    with pytest.raises(openai.NotFoundError):
        client.get("/Ruritania", cast_to=object)
    lines = [record.getMessage() for record in caplog.records if record.name == "longreach.serving"]
    assert len(lines) == 3 and "POST /v1/chat/completions 200" in lines[0] and lines[0].endswith("anna")
    for word in ("Ruritania", keys["anna"], done.choices[0].message.content):
        assert word not in "\n".join(lines)


def test_an_error_inside_is_logged_by_its_place_only(keyed, caplog, monkeypatch):
    server, keys = keyed

    def fail():
        raise RuntimeError("the words of a client")

    monkeypatch.setattr(server.service.stores, "all", fail)
    with pytest.raises(openai.InternalServerError) as error:
        server.client(keys["anna"]).models.list()
    assert error.value.code == "internal_error"
    assert error.value.response.headers["x-content-type-options"] == "nosniff"
    assert "words of a client" not in error.value.message
    lines = [record.getMessage() for record in caplog.records if record.name == "longreach.serving"]
    assert any("RuntimeError at" in line and "models.py" in line for line in lines)
    assert "words of a client" not in "\n".join(lines)


def test_words_of_documents_are_sent_as_data(client, server):
    page = b"<script>alert(1)</script> The Walrus wept. [x](javascript:alert(1)) \x1b[31m"
    store = client.vector_stores.create(name="pages")
    file = client.files.create(file=("page.txt", page), purpose="assistants")
    client.vector_stores.files.create_and_poll(file_id=file.id, vector_store_id=store.id, poll_interval_ms=50)
    with server.http() as http:
        response = http.post("/v1/vector_stores/pages/search", json={"query": "Who wept?"})
        assert response.headers["content-type"] == "application/json"
        assert json.loads(response.text)["data"][0]["content"][0]["text"] == page.decode()
        content = http.get(f"/v1/files/{file.id}/content")
        assert content.headers["content-type"] == "application/octet-stream"
        assert content.headers["content-disposition"].startswith("attachment")
    client.vector_stores.delete(store.id)
