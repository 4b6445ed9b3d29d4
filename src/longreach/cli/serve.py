"""`longreach serve`: the OpenAI-compatible server."""

from pathlib import Path
from typing import Any

import typer

from longreach.cli.output import (
    DeviceOption,
    JsonOption,
    StoreOption,
    at_least_one,
    dtype_checked,
    emit,
    note,
    say,
)

_GIB = 1 << 30
_MIB = 1 << 20


def serve(
    host: str = typer.Option("127.0.0.1", "--host", help="The address to listen on."),
    port: int = typer.Option(8000, "--port", help="The port; 0 takes a free one."),
    model: str = typer.Option(
        "smollm2",
        "--model",
        help=(
            "The base model, with which new corpora are made: hub id, folder, .gguf file or"
            " 'smollm2'."
        ),
    ),
    compressor: str | None = typer.Option(
        None,
        "--compressor",
        help="What makes the memory of new corpora, as in `ingest`. [default: by the model]",
    ),
    api_keys: Path | None = typer.Option(
        None,
        "--api-keys",
        metavar="FILE",
        help="File of hashed keys. [default: none, and only this machine may ask]",
    ),
    add_key: str | None = typer.Option(
        None,
        "--add-key",
        metavar="NAME",
        help="Make a key, print it once, write its hash to the file of --api-keys, and exit.",
    ),
    requests_per_minute: int | None = typer.Option(
        None,
        "--requests-per-minute",
        callback=at_least_one,
        help="With --add-key: its limit of requests.",
    ),
    tokens_per_minute: int | None = typer.Option(
        None,
        "--tokens-per-minute",
        callback=at_least_one,
        help="With --add-key: its limit of tokens, read and written together.",
    ),
    allow_host: list[str] = typer.Option(
        [], "--allow-host", metavar="NAME", help="Name by which clients may call the server."
    ),
    allow_origin: list[str] = typer.Option(
        [],
        "--allow-origin",
        metavar="URL",
        help="Origin of pages whose scripts may ask, such as https://example.org.",
    ),
    memory_gb: float | None = typer.Option(
        None,
        "--memory-gb",
        help=(
            "Memory for models and corpora, of which the least recently used leave. [default: half"
            " of the machine's]"
        ),
    ),
    max_upload_mb: int = typer.Option(
        64, "--max-upload-mb", callback=at_least_one, help="Size of an uploaded file."
    ),
    max_requests: int = typer.Option(
        64,
        "--max-requests",
        callback=at_least_one,
        help="Questions at work or waiting; more are told to try again.",
    ),
    max_new_tokens: int = typer.Option(
        512,
        "--max-new-tokens",
        callback=at_least_one,
        help="Tokens of an answer where the client does not say.",
    ),
    drain_seconds: int = typer.Option(
        30, "--drain-seconds", help="At the end: how long answers at work may take."
    ),
    store: Path | None = StoreOption,
    device: str | None = DeviceOption,
    dtype: str | None = typer.Option(
        None,
        "--dtype",
        callback=dtype_checked,
        help="Of models while they only read. [default: float32 on a CPU, bfloat16 on a GPU]",
    ),
    as_json: bool = JsonOption,
) -> None:
    """Serve all corpora of a store in OpenAI's interface.

    Chat completions, responses with file search, files and vector stores. Each corpus is a model
    and a vector store. SIGTERM and Ctrl-C end the server when the answers at work are written.

    Example: longreach serve --port 8000
    """
    from longreach.corpus.place import store_folder
    from longreach.errors import MissingDependency, UsageError

    if add_key is not None:
        from longreach.serving.security.keys import add_key as make_key

        if api_keys is None:
            raise UsageError("--add-key needs the file that it goes into: name it (--api-keys).")
        key = make_key(
            api_keys,
            add_key,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
        if as_json:
            emit({"name": add_key, "key": key})
        else:
            note(f"The key of '{add_key}' is shown this once:")
            say(key)
        return
    if memory_gb is not None and not memory_gb > 0:
        raise UsageError(f"memory_gb is {memory_gb:g}; it must be more than 0.")
    more: dict[str, Any] = {}
    if memory_gb is not None:
        more["memory_bytes"] = int(memory_gb * _GIB)
    try:
        from longreach.serving.server import serve as run
        from longreach.serving.settings import ServeSettings
    except ImportError as error:
        if (error.name or "").startswith("longreach"):
            raise
        raise MissingDependency(
            'The server needs more packages: pip install "longreach[serve]"'
        ) from error
    settings = ServeSettings(
        store_folder(store).absolute(),
        model,
        compressor,
        device,
        dtype,
        host,
        port,
        api_keys,
        tuple(allow_host),
        tuple(allow_origin),
        max_upload_bytes=max_upload_mb * _MIB,
        max_requests=max_requests,
        max_new_tokens=max_new_tokens,
        drain_seconds=drain_seconds,
        **more,
    )

    def tell(address: str) -> None:
        if as_json:
            emit({"address": address, "store": str(settings.store)})
        else:
            say(f"Serving {settings.store} at {address} (OpenAI's base URL is {address}/v1).")

    run(settings, tell)
