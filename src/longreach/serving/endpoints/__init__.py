"""The endpoints, one router a resource; a new one is a module and a line here."""

from fastapi import APIRouter

from longreach.serving.endpoints import (
    chat,
    embeddings,
    files,
    health,
    metrics,
    models,
    responses,
    vector_store_files,
    vector_stores,
)

ROUTERS: tuple[APIRouter, ...] = (
    health.router,
    models.router,
    chat.router,
    responses.router,
    embeddings.router,
    vector_stores.router,
    vector_store_files.router,
    files.router,
    metrics.router,
)
