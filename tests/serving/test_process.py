"""`longreach serve` as a process: it says where it listens, drains at its end, and resumes after SIGKILL."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import openai
import pytest
from typer.testing import CliRunner

from longreach import Corpus
from longreach.cli.app import app
from longreach.serving.security.keys import KeyRing
from tests.serving.conftest import make_corpus, wait_for

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")
QUESTION = [{"role": "user", "content": "Who stole the tarts?"}]


@contextmanager
def process(store, base, *more):
    """A server, its client, and its process."""
    options = ["--store", str(store), "--model", base, "--compressor", "mean-pool", "--device", "cpu"]
    command = [sys.executable, "-m", "longreach.cli", "serve", "--port", "0", "--json", *options, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as started:
        try:
            line = started.stdout.readline()
            assert line, started.stderr.read()
            address = json.loads(line)["address"]
            client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=5, timeout=60)
            yield client, started
        finally:
            started.kill()


@pytest.mark.slow
def test_sigterm_waits_for_the_answers_at_work(tmp_path, base):
    make_corpus(tmp_path, base)
    with process(tmp_path, base) as (client, started):
        client.models.list()
        stream = client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=400, stream=True)
        pieces = iter(stream)
        next(pieces)
        started.send_signal(signal.SIGTERM)
        finish = [chunk.choices[0].finish_reason for chunk in pieces if chunk.choices]
        assert finish[-1] in ("length", "stop")
        assert started.wait(60) == 0
        with pytest.raises(openai.APIConnectionError):
            client.with_options(max_retries=0).models.list()


@pytest.mark.slow
def test_a_store_has_one_server(tmp_path, base):
    make_corpus(tmp_path, base)
    with process(tmp_path, base) as (_, started):
        done = CliRunner().invoke(app, ["serve", "--port", "0", "--store", str(tmp_path), "--model", base])
        assert "Another server serves" in str(done.exception)
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 0


@pytest.mark.slow
def test_sigkill_during_ingests_loses_and_doubles_nothing(tmp_path, base):
    """Files are uploaded and the server is killed again and again while it reads them."""
    texts = {f"{number}.txt": f"Story number {number}. The hatter drank tea. " * 40 for number in range(12)}
    store_id = None
    uploaded = {}
    attached = set()
    for round_number in range(3):
        with process(tmp_path, base) as (client, started):
            if store_id is None:
                store_id = client.vector_stores.create(name="killed").id
            for name, text in list(texts.items())[4 * round_number : 4 * round_number + 4]:
                uploaded[name] = client.files.create(file=(name, text.encode()), purpose="assistants").id
                client.vector_stores.files.create(store_id, file_id=uploaded[name], attributes={"name": name})
                attached.add(uploaded[name])
            timer = threading.Timer(0.05 + 0.2 * round_number, started.kill)
            timer.start()
            started.wait(60)
    with process(tmp_path, base) as (client, _):
        counts = wait_for(
            lambda: (found := client.vector_stores.retrieve(store_id).file_counts).in_progress == 0 and found
        )
        assert (counts.completed, counts.total) == (len(texts), len(texts))
        members = list(client.vector_stores.files.list(store_id, limit=100))
        assert {member.id for member in members} == attached
        assert {member.attributes["name"] for member in members} == set(texts)
        for name, text in texts.items():
            content = client.vector_stores.files.content(uploaded[name], vector_store_id=store_id)
            assert content.data[0].text == text
    corpus = Corpus.open(tmp_path, "killed")
    assert len(corpus.documents()) == len(texts)
    assert not corpus.verify().problems


def test_a_key_is_made_on_the_command_line(tmp_path):
    file = tmp_path / "keys.jsonl"
    options = ["--api-keys", str(file), "--add-key", "anna", "--tokens-per-minute", "100", "--json"]
    done = CliRunner().invoke(app, ["serve", *options])
    key = json.loads(done.stdout)["key"]
    assert KeyRing.load(file).find(key).tokens_per_minute == 100


@pytest.mark.parametrize(
    "options, said",
    [
        (["--host", "0.0.0.0"], "Without API keys"),
        (["--add-key", "anna"], "--api-keys"),
        (["--memory-gb", "0"], "memory_gb"),
        (["--port", "70000"], "port"),
        (["--api-keys", "nothing.jsonl"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path, options, said):
    done = CliRunner().invoke(app, ["serve", "--store", str(tmp_path / "store"), *options])
    assert done.exit_code != 0 and said in str(done.exception)
