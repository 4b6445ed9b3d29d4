"""Vector stores: corpora that clients make, describe, search and delete."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from longreach.jsontext import JsonObject
from longreach.serving.filters import Filter, check_filter
from longreach.serving.objects import (
    Attributes,
    Body,
    Metadata,
    PageQuery,
    check_pairs,
    cut_page,
    list_object,
)
from longreach.serving.problems import Problem
from longreach.serving.searching import search
from longreach.serving.state import Shared

router = APIRouter(prefix="/v1/vector_stores", tags=["vector stores"])

MOST_FILES = 500
_Name = Annotated[str, Field(max_length=256)]
FileIds = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=MOST_FILES)]


class AutoChunking(Body):
    """How files are cut into passages: as the corpus' compressor does."""

    type: Literal["auto"]


class CreateBody(Body):
    """A vector store that is to be made."""

    name: _Name | None = None
    description: _Name | None = None
    file_ids: FileIds | None = None
    metadata: Metadata | None = None
    chunking_strategy: AutoChunking | None = None


class ModifyBody(Body):
    """What is to be changed."""

    name: _Name | None = None
    metadata: Metadata | None = None


class Ranking(Body):
    """How results are ranked."""

    ranker: Literal["auto", "none", "default-2024-11-15", "bm25", "dense", "hybrid"] | None = None
    score_threshold: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None


class SearchBody(Body):
    """A search."""

    query: (
        Annotated[str, Field(min_length=1, max_length=10_000)]
        | Annotated[
            list[Annotated[str, Field(min_length=1, max_length=10_000)]],
            Field(min_length=1, max_length=16),
        ]
    )
    filters: Filter | None = None
    max_num_results: Annotated[int, Field(ge=1, le=50)] = 10
    ranking_options: Ranking | None = None
    rewrite_query: Literal[False] | None = None


@router.post("")
def create(body: CreateBody, service: Shared) -> JsonObject:
    """Makes a vector store, and begins to read files into it."""
    check_pairs(body.metadata, "metadata")
    # Before anything is made, so that a wrong id leaves nothing behind.
    uploads = [service.uploads.get(file_id) for file_id in body.file_ids or []]
    store = service.stores.create(body.name, body.metadata or {})
    for upload in uploads:
        no_attributes: Attributes = {}
        service.members.attach(store, upload, no_attributes)
    service.ingesting.wake()
    return service.stores.to_dict(store)


@router.get("")
def list_stores(query: Annotated[PageQuery, Query()], service: Shared) -> JsonObject:
    """Lists the vector stores, the newest first."""
    page, has_more = cut_page(service.stores.all(), query)
    return list_object([service.stores.to_dict(store) for store in page], has_more)


@router.get("/{vector_store_id}")
def get_store(vector_store_id: str, service: Shared) -> JsonObject:
    """Gets a vector store, by its id or by the name of its corpus."""
    return service.stores.to_dict(service.stores.get(vector_store_id))


@router.post("/{vector_store_id}")
def modify(vector_store_id: str, body: ModifyBody, service: Shared) -> JsonObject:
    """Changes what a vector store is called, and its metadata."""
    check_pairs(body.metadata, "metadata")
    store = service.stores.get(vector_store_id)
    return service.stores.to_dict(service.stores.modify(store, body.name, body.metadata))


@router.delete("/{vector_store_id}")
def delete(vector_store_id: str, service: Shared) -> JsonObject:
    """Deletes a vector store with its corpus; uploaded files stay."""
    store = service.stores.get(vector_store_id)
    service.stores.delete(store)
    return {"id": store.id, "object": "vector_store.deleted", "deleted": True}


@router.post("/{vector_store_id}/search")
def search_store(vector_store_id: str, body: SearchBody, service: Shared) -> JsonObject:
    """Gives the passages that fit a query best, with their exact places."""
    check_filter(body.filters)
    store = service.stores.get(vector_store_id)
    queries = [body.query] if isinstance(body.query, str) else body.query
    if not any(query.strip() for query in queries):
        raise Problem(400, "The query is empty: ask something.", param="query")
    ranking = body.ranking_options or Ranking()
    found = search(
        service,
        store,
        queries,
        service.search_in(store, body.filters),
        most=body.max_num_results,
        retriever=ranking.ranker,
        threshold=ranking.score_threshold or 0.0,
    )
    service.stores.touch(store)
    data = []
    for quote in found:
        data.append(
            {
                "file_id": quote.file_id,
                "filename": quote.filename,
                "score": quote.score,
                "attributes": quote.attributes,
                "content": [{"type": "text", "text": quote.text}],
                "longreach": quote.place,
            }
        )
    return {
        "object": "vector_store.search_results.page",
        "search_query": queries,
        "data": data,
        "has_more": False,
        "next_page": None,
    }
