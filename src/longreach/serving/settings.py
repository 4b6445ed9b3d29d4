"""How a server is set up, and what is refused before it starts. Imports no torch."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from longreach.errors import UsageError
from longreach.models.loading.places import DEFAULT_MODEL

_MIB = 1 << 20
_GIB = 1 << 30
_LOOPBACK_NAME = "localhost"


def half_of_memory() -> int:
    """Returns half of this machine's memory, in bytes."""
    return int(psutil.virtual_memory().total // 2)


@dataclass(frozen=True)
class ServeSettings:
    """The settings of a server.

    Attributes:
        store: The folder of corpora.
        model: The base model: hub id, folder, .gguf file or "smollm2". New corpora are made with
            it.
        compressor: What makes the memory of new corpora; None takes the best that ships for the
            model.
        device: Where models work; None takes the GPU where there is one.
        dtype: Of models while they only read; None takes float32 on a CPU, bfloat16 on a GPU.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        api_keys: File of hashed keys; None lets everybody in who reaches the loopback address.
        allowed_hosts: Names by which clients may call the server, beside its own address.
        allowed_origins: Origins of pages whose scripts may ask, such as "https://example.org".
        memory_bytes: Memory for models and corpora; the least recently used leave.
        max_upload_bytes: Size of one uploaded file.
        max_files: Number of uploaded files kept.
        max_stored_bytes: Size of all uploaded files together.
        max_body_bytes: Size of a request that is no upload.
        max_requests: Questions at work or waiting; more are refused until one has ended.
        max_new_tokens: Tokens of an answer where the client does not say.
        drain_seconds: At the end: how long answers that are being written may take.

    Raises:
        UsageError: A setting cannot be, or the server would be open to others without keys.
    """

    store: Path
    model: str = DEFAULT_MODEL
    compressor: str | None = None
    device: str | None = None
    dtype: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    memory_bytes: int = field(default_factory=half_of_memory)
    max_upload_bytes: int = 64 * _MIB
    max_files: int = 10_000
    max_stored_bytes: int = 20 * _GIB
    max_body_bytes: int = 4 * _MIB
    max_requests: int = 64
    max_new_tokens: int = 512
    drain_seconds: int = 30

    def __post_init__(self) -> None:
        counts = (
            "memory_bytes",
            "max_upload_bytes",
            "max_files",
            "max_stored_bytes",
            "max_body_bytes",
            "max_requests",
            "max_new_tokens",
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 <= self.port < 1 << 16:
            raise UsageError(f"The port is {self.port}; give one from 0 to 65535.")
        if self.api_keys is None and not is_loopback(self.host):
            raise UsageError(
                f"Without API keys everybody who reaches '{self.host}' could ask and delete: name a"
                " file of keys (--api-keys), or listen on 127.0.0.1."
            )


def is_loopback(host: str) -> bool:
    """Returns whether only this machine reaches an address."""
    if host == _LOOPBACK_NAME:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        # The name of some machine: who can say where it leads?
        return False
