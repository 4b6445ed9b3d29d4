"""The models that can be asked: the base model, and each corpus."""

from fastapi import APIRouter

from longreach.jsontext import JsonObject
from longreach.serving.problems import no_such
from longreach.serving.state import Service, Shared

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_models(service: Shared) -> JsonObject:
    """Lists the base model and the corpora."""
    return {"object": "list", "data": _list(service)}


@router.get("/{model:path}")
def get_model(model: str, service: Shared) -> JsonObject:
    """Gets one of them."""
    for found in _list(service):
        if found["id"] == model:
            return found
    raise no_such("model", model, "model")


def _list(service: Service) -> list[JsonObject]:
    found = [_describe(service.pool.model_id, 0, "model", None)]
    for store in service.stores.all():
        if store.corpus != service.pool.model_id:
            found.append(_describe(store.corpus, store.created_at, "corpus", store.id))
    return found


def _describe(name: str, created: int, kind: str, store_id: str | None) -> JsonObject:
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "longreach",
        "longreach": {"kind": kind, "vector_store_id": store_id},
    }
