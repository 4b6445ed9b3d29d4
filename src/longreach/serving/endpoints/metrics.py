"""What the server tells Prometheus."""

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from longreach.serving.state import Shared

router = APIRouter(tags=["metrics"])


@router.get("/metrics", response_class=Response)
def metrics(service: Shared) -> Response:
    """Gives the server's metrics in the text format of Prometheus."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
