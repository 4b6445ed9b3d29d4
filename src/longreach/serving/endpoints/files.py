"""Uploaded files."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from starlette.datastructures import UploadFile

from longreach.jsontext import JsonObject
from longreach.serving.objects import PageQuery, cut_page, list_object
from longreach.serving.problems import Problem
from longreach.serving.state import Shared

router = APIRouter(prefix="/v1/files", tags=["files"])

PURPOSES = ("assistants", "user_data")
_FIELDS = {"file", "purpose"}


class FilesQuery(PageQuery):
    """Which files are listed."""

    limit: int = 100
    purpose: str | None = None


@router.post("")
async def upload(request: Request, service: Shared) -> JsonObject:
    """Takes a file as multipart/form-data, with its purpose."""
    form = await request.form(max_files=1, max_fields=len(_FIELDS))
    try:
        unknown = sorted(set(form.keys()) - _FIELDS)
        if unknown:
            raise Problem(
                400,
                f"The parameter '{unknown[0][:50]}' is not known: send file and purpose.",
                code="unknown_parameter",
                param=unknown[0][:50],
            )
        file = form.get("file")
        purpose = form.get("purpose")
        if not isinstance(file, UploadFile):
            raise Problem(400, "The form has no file: send one as 'file'.", param="file")
        if purpose not in PURPOSES:
            raise Problem(
                400, f"The purpose must be one of {', '.join(PURPOSES)}.", param="purpose"
            )

        async def read(size: int) -> AsyncIterator[bytes]:
            while piece := await file.read(size):
                yield piece

        taken = await service.uploads.receive(read, file.filename or "", str(purpose))
    finally:
        await form.close()
    return taken.to_dict()


@router.get("")
def list_files(query: Annotated[FilesQuery, Query()], service: Shared) -> JsonObject:
    """Lists the files, the newest first."""
    files = service.uploads.all()
    if query.purpose is not None:
        files = [file for file in files if file.purpose == query.purpose]
    page, has_more = cut_page(files, query)
    return list_object([file.to_dict() for file in page], has_more)


@router.get("/{file_id}")
def get_file(file_id: str, service: Shared) -> JsonObject:
    """Gets a file's description."""
    return service.uploads.get(file_id).to_dict()


@router.get("/{file_id}/content", response_class=FileResponse)
def get_content(file_id: str, service: Shared) -> FileResponse:
    """Gets the bytes of a file, to be saved and never shown."""
    found = service.uploads.get(file_id)
    return FileResponse(
        service.uploads.path(found),
        media_type="application/octet-stream",
        filename=found.filename,
    )


@router.delete("/{file_id}")
def delete_file(file_id: str, service: Shared) -> JsonObject:
    """Deletes a file, and takes it out of all vector stores."""
    service.uploads.get(file_id)
    for store_id in service.members.stores_of(file_id):
        store = service.stores.find(store_id)
        if store is not None:
            service.members.detach(store, service.members.get(store, file_id))
    service.uploads.delete(file_id)
    service.ingesting.wake()
    return {"id": file_id, "object": "file", "deleted": True}
