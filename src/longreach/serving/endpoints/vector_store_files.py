"""The files of a vector store: put there one by one or as a batch, and read in the background."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from longreach.jsontext import JsonObject
from longreach.serving.endpoints.vector_stores import MOST_FILES, AutoChunking, FileIds
from longreach.serving.members import (
    CANCELLED,
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    Member,
    count_states,
)
from longreach.serving.objects import (
    Attributes,
    Body,
    PageQuery,
    check_pairs,
    cut_page,
    list_object,
)
from longreach.serving.problems import Problem
from longreach.serving.state import Service, Shared
from longreach.serving.stores import VectorStore

router = APIRouter(prefix="/v1/vector_stores/{vector_store_id}", tags=["vector store files"])

State = Literal["in_progress", "completed", "failed", "cancelled"]
_Id = Annotated[str, Field(min_length=1, max_length=64)]


class AttachBody(Body):
    """A file that is to be read into a vector store."""

    file_id: _Id
    attributes: Attributes | None = None
    chunking_strategy: AutoChunking | None = None


class UpdateBody(Body):
    """New attributes of a file."""

    attributes: Attributes | None


class BatchBody(Body):
    """Files that are to be read together: either with attributes of each, or with the same."""

    file_ids: FileIds | None = None
    files: Annotated[list[AttachBody], Field(max_length=MOST_FILES)] | None = None
    attributes: Attributes | None = None
    chunking_strategy: AutoChunking | None = None


class MembersQuery(PageQuery):
    """Which files are listed."""

    filter: State | None = None


@router.post("/files")
def attach(vector_store_id: str, body: AttachBody, service: Shared) -> JsonObject:
    """Begins to read a file into a vector store."""
    store = service.stores.get(vector_store_id)
    check_pairs(body.attributes, "attributes")
    upload = service.uploads.get(body.file_id)
    service.members.attach(store, upload, body.attributes or {})
    service.ingesting.wake()
    return service.members.get(store, upload.id).to_dict()


@router.get("/files")
def list_members(
    vector_store_id: str, query: Annotated[MembersQuery, Query()], service: Shared
) -> JsonObject:
    """Lists the files of a vector store, the newest first."""
    store = service.stores.get(vector_store_id)
    return _list(service.members.all(store), query)


@router.get("/files/{file_id}")
def get_member(vector_store_id: str, file_id: str, service: Shared) -> JsonObject:
    """Gets how far a file is."""
    store = service.stores.get(vector_store_id)
    return service.members.get(store, file_id).to_dict()


@router.post("/files/{file_id}")
def update(vector_store_id: str, file_id: str, body: UpdateBody, service: Shared) -> JsonObject:
    """Changes the attributes of a file."""
    store = service.stores.get(vector_store_id)
    check_pairs(body.attributes, "attributes")
    member = service.members.get(store, file_id)
    service.members.set_attributes(member, body.attributes or {})
    return service.members.get(store, file_id).to_dict()


@router.get("/files/{file_id}/content")
def get_text(vector_store_id: str, file_id: str, service: Shared) -> JsonObject:
    """Gets the text of a file as it is read, which citations count their characters in."""
    store = service.stores.get(vector_store_id)
    member = service.members.get(store, file_id)
    if member.status != COMPLETED:
        raise Problem(
            409,
            f"The file is {member.status.replace('_', ' ')}: its text is there when it is"
            " completed.",
            code="not_completed",
        )
    with service.pool.open_corpus(store.corpus) as session:
        text = session.corpus.document_text(member.document)
    return {
        "object": "vector_store.file_content.page",
        "data": [{"type": "text", "text": text}],
        "file_id": member.id,
        "filename": member.filename,
        "attributes": member.attributes,
        "has_more": False,
        "next_page": None,
    }


@router.delete("/files/{file_id}")
def detach(vector_store_id: str, file_id: str, service: Shared) -> JsonObject:
    """Takes a file out of a vector store; the uploaded file stays."""
    store = service.stores.get(vector_store_id)
    service.members.detach(store, service.members.get(store, file_id))
    service.ingesting.wake()
    return {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}


@router.post("/file_batches")
def create_batch(vector_store_id: str, body: BatchBody, service: Shared) -> JsonObject:
    """Begins to read several files into a vector store."""
    store = service.stores.get(vector_store_id)
    if (body.file_ids is None) == (body.files is None):
        raise Problem(400, "Give either 'file_ids' or 'files'.", param="file_ids")
    asked = []
    for file_id in body.file_ids or []:
        asked.append((file_id, body.attributes))
    for one in body.files or []:
        asked.append((one.file_id, one.attributes))
    if not asked:
        raise Problem(400, "The batch has no files: name at least one.", param="file_ids")
    files = []
    for file_id, attributes in asked:
        check_pairs(attributes, "attributes")
        files.append((service.uploads.get(file_id), attributes or {}))
    with service.database.change():
        batch_id = service.members.new_batch(store)
        for upload, attributes in files:
            service.members.attach(store, upload, attributes, batch_id)
    service.ingesting.wake()
    return _describe_batch(service, store, batch_id)


@router.get("/file_batches/{batch_id}")
def get_batch(vector_store_id: str, batch_id: str, service: Shared) -> JsonObject:
    """Gets how far a batch is."""
    return _describe_batch(service, service.stores.get(vector_store_id), batch_id)


@router.post("/file_batches/{batch_id}/cancel")
def cancel_batch(vector_store_id: str, batch_id: str, service: Shared) -> JsonObject:
    """Cancels the files of a batch that are not read yet."""
    store = service.stores.get(vector_store_id)
    service.members.batch(store, batch_id)
    service.members.cancel_batch(store, batch_id)
    return _describe_batch(service, store, batch_id)


@router.get("/file_batches/{batch_id}/files")
def list_batch(
    vector_store_id: str,
    batch_id: str,
    query: Annotated[MembersQuery, Query()],
    service: Shared,
) -> JsonObject:
    """Lists the files of a batch."""
    store = service.stores.get(vector_store_id)
    return _list(service.members.batch(store, batch_id)[1], query)


def _list(members: list[Member], query: MembersQuery) -> JsonObject:
    if query.filter is not None:
        members = [member for member in members if member.status == query.filter]
    page, has_more = cut_page(members, query)
    return list_object([member.to_dict() for member in page], has_more)


def _describe_batch(service: Service, store: VectorStore, batch_id: str) -> JsonObject:
    created, members = service.members.batch(store, batch_id)
    counts = count_states(members)
    status = COMPLETED
    if counts[IN_PROGRESS]:
        status = IN_PROGRESS
    elif counts[CANCELLED]:
        status = CANCELLED
    elif counts[FAILED] and not counts[COMPLETED]:
        status = FAILED
    return {
        "id": batch_id,
        "object": "vector_store.files_batch",
        "created_at": created,
        "vector_store_id": store.id,
        "status": status,
        "file_counts": counts,
    }
