"""Embeddings of the sentence encoder that dense search uses."""

import base64
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import Field

from longreach.corpus.search.encoder import NAME, load_encoder
from longreach.jsontext import JsonObject
from longreach.models.sharing import exclusive
from longreach.serving.objects import Body
from longreach.serving.problems import Problem, no_such
from longreach.serving.state import Shared

router = APIRouter(prefix="/v1/embeddings", tags=["embeddings"])

MOST_INPUTS = 256
_Text = Annotated[str, Field(min_length=1, max_length=100_000)]


class EmbeddingsBody(Body):
    """Texts whose embeddings are asked for."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: _Text | Annotated[list[_Text], Field(min_length=1, max_length=MOST_INPUTS)]
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


@router.post("")
def embed(body: EmbeddingsBody, service: Shared) -> JsonObject:
    """Gives the embeddings of texts, each of length 1."""
    if body.model != NAME:
        raise no_such("model", body.model, "model")
    texts = [body.input] if isinstance(body.input, str) else body.input
    encoder = load_encoder()
    # The next request finds it loaded.
    service.encoder = encoder
    most = encoder.max_seq_length
    with exclusive(encoder):
        tokens = _count_tokens(encoder.tokenizer(texts, verbose=False)["input_ids"])
        for number, count in enumerate(tokens):
            if most is not None and count > most:
                raise Problem(
                    400,
                    f"The text {number} has {count:,} tokens and the model reads {most:,}: split"
                    " it.",
                    code="context_length_exceeded",
                    param=f"input[{number}]",
                )
        rows = encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    data = []
    for index, row in enumerate(rows):
        values = [float(value) for value in row]
        shown: object = values
        if body.encoding_format == "base64":
            shown = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
        data.append({"object": "embedding", "index": index, "embedding": shown})
    used = sum(tokens)
    return {
        "object": "list",
        "model": NAME,
        "data": data,
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def _count_tokens(rows: Sequence[Sequence[int]]) -> list[int]:
    return [len(row) for row in rows]
