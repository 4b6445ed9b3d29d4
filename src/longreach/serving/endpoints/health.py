"""Whether the server lives, and whether it takes questions."""

from fastapi import APIRouter

from longreach.jsontext import JsonObject
from longreach.serving.problems import Problem
from longreach.serving.state import Shared

router = APIRouter(tags=["health"])


@router.get("/health")
def health() -> JsonObject:
    """Says that the server lives."""
    return {"status": "ok"}


@router.get("/ready")
def ready(service: Shared) -> JsonObject:
    """Says whether the server takes questions; 503 while it ends."""
    if service.is_draining:
        raise Problem(503, "The server is ending: ask another one.", code="draining", retry_after=5)
    return {"status": "ready", "ingest_queue": service.ingesting.waiting()}
