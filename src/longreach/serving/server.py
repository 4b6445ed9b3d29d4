"""A server in its process: one for a store, listening until it is told to end."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import filelock
import uvicorn
from fastapi import FastAPI

from longreach.errors import StorageError, UsageError
from longreach.serving.app import create_app
from longreach.serving.database import FOLDER
from longreach.serving.settings import ServeSettings

_LOCK = "lock"
_BACKLOG = 128


class Server(uvicorn.Server):
    """A server that stops taking questions as soon as it is told to end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Has uvicorn wait for what is at work; told twice, it does not wait any longer.

        uvicorn's own method would have the process end by the signal again, as if it had failed.
        """
        self.config.app.state.service.is_draining = True  # type: ignore[union-attr]
        self.force_exit = self.should_exit
        self.should_exit = True


def serve(settings: ServeSettings, ready: Callable[[str], None] | None = None) -> None:
    """Serves until SIGTERM or Ctrl-C; answers at work are written to their end.

    Args:
        settings: How the server is set up.
        ready: Is told its address when it listens.

    Raises:
        UsageError: The address is taken, or another server serves this store.
        StorageError: The store cannot be written to.
    """
    folder = settings.store / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / _LOCK, timeout=0)
        lock.acquire()
    except filelock.Timeout as error:
        raise UsageError(
            f"Another server serves the store '{settings.store}': end it, or give another folder"
            " with --store."
        ) from error
    except OSError as error:
        raise StorageError(
            f"The store '{settings.store}' cannot be written to ({error.strerror}): give another"
            " folder with --store."
        ) from error
    with lock:
        listening = _listen(settings)
        app = create_app(settings)
        _start_log()
        server = Server(make_config(app, settings))
        if ready is not None:
            ready(_address(listening))
        server.run(sockets=[listening])
        if not getattr(app.state, "has_ended", False):
            _leave()


def make_config(app: FastAPI, settings: ServeSettings) -> uvicorn.Config:
    """Returns how uvicorn runs the application."""
    return uvicorn.Config(
        app,
        # Its log would hold addresses with what clients put into them; ours does not.
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds,
        lifespan="on",
    )


def _listen(settings: ServeSettings) -> socket.socket:
    host = settings.host.strip("[]")
    try:
        family = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, settings.port))
        listening.listen(_BACKLOG)
    except OSError as error:
        raise UsageError(
            f"The server cannot listen on {settings.host}, port {settings.port}"
            f" ({error.strerror}): give another --host or --port."
        ) from error
    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}"


def _start_log() -> None:
    log = logging.getLogger("longreach.serving")
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _leave() -> None:
    """Ends the process although a file is still being read, which the next server resumes.

    A thread inside torch while Python ends could take the process down.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
