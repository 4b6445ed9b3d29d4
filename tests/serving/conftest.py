"""A real server on a free port with a tiny random model, and the official client."""

import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import httpx2
import openai
import pytest
import uvicorn

import longreach
from longreach import Document
from longreach.serving.app import create_app
from longreach.serving.server import make_config
from longreach.serving.settings import ServeSettings
from tests.conftest import make_model, make_tokenizer

TARTS = Document("tarts.txt", "The Knave of Hearts stole the tarts. The King was angry.\n" * 6)
ALICE = Document("alice.txt", "Alice fell down the rabbit hole. She was very surprised.\n" * 6)
WAIT_SECONDS = 60


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The folder of a tiny model, which clients call by the folder's name."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model(max_position_embeddings=4096).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def make_corpus(store, base, name="library", documents=(TARTS, ALICE)):
    with longreach.open(
        name, store, base, compressor="mean-pool", ratio=10, segment_tokens=64, device="cpu"
    ) as session:
        session.add(list(documents))


@pytest.fixture(scope="session")
def settings(base, tmp_path_factory):
    """The settings of a server over a store with the corpus 'library'."""
    store = tmp_path_factory.mktemp("store")
    make_corpus(store, base)
    return make_settings(store, base)


def make_settings(store, base, **more):
    given = {
        "compressor": "mean-pool",
        "device": "cpu",
        "memory_bytes": 1 << 30,
        "max_new_tokens": 8,
        "drain_seconds": 5,
    }
    return ServeSettings(store, base, **(given | more))


class Running:
    """A server that runs, and clients of it."""

    def __init__(self, app, address):
        self.app = app
        self.address = address
        self.service = app.state.service

    def client(self, key="no key", **more):
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0, timeout=WAIT_SECONDS, **more)

    def http(self, **more):
        return httpx2.Client(base_url=self.address, timeout=WAIT_SECONDS, **more)


@contextmanager
def running(settings):
    """Runs a server in a thread, as uvicorn runs it in a process."""
    app = create_app(settings)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(make_config(app, settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive())
        yield Running(app, f"http://127.0.0.1:{listening.getsockname()[1]}")
    finally:
        server.should_exit = True
        thread.join(WAIT_SECONDS)
        listening.close()
    assert not thread.is_alive()


def wait_for(condition, seconds=WAIT_SECONDS):
    """Waits until something holds, and returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come to hold in time")


@pytest.fixture(scope="session")
def server(settings):
    with running(settings) as found:
        yield found


@pytest.fixture
def client(server):
    return server.client()


@pytest.fixture
def http(server):
    with server.http() as found:
        yield found


def error_of(response):
    """The error object of a response."""
    error = json.loads(response.content)["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert error["message"].endswith(".") and error["type"].endswith("_error")
    return error


__all__ = ["ALICE", "TARTS", "Running", "error_of", "make_corpus", "make_settings", "replace", "running", "wait_for"]
