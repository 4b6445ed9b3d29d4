"""API keys: kept as hashes, compared in constant time, each with its limits.

The file has one JSON object a line: {"name": "anna", "hash": "sha256:...", "requests_per_minute":
60, "tokens_per_minute": 20000}. A key has 256 random bits, so that one round of SHA-256 is as good
as a slow hash.
"""

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from longreach.errors import UsageError
from longreach.jsontext import NotJson, parse_object

PREFIX = "lr-"
_HASH = "sha256:"
_FIELDS = {"name", "hash", "requests_per_minute", "tokens_per_minute"}


@dataclass(frozen=True)
class ApiKey:
    """A key that was given out.

    Attributes:
        name: Whose it is; logs and limits go by it.
        hash: Its SHA-256, as "sha256:" and hex.
        requests_per_minute: None for no limit.
        tokens_per_minute: Read and written together; None for no limit.
    """

    name: str
    hash: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class KeyRing:
    """The keys of a server.

    Args:
        keys: Those that were given out.
    """

    def __init__(self, keys: list[ApiKey]) -> None:
        self.keys = keys

    @classmethod
    def load(cls, path: Path) -> "KeyRing":
        """Reads a file of keys.

        Raises:
            UsageError: It is missing, holds no key, or a line that is none.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"The file of API keys '{path}' cannot be read: make one with `longreach serve"
                f" --api-keys {path} --add-key NAME`."
            ) from error
        keys = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                keys.append(_parse(line, f"{path}, line {number}"))
        names = [key.name for key in keys]
        if not keys or len(set(names)) < len(names):
            raise UsageError(
                f"The file of API keys '{path}' must hold at least one key, each with a name of"
                " its own."
            )
        return cls(keys)

    def find(self, given: str) -> ApiKey | None:
        """Returns the key that was given, or None; it takes as long for each key."""
        digest = hash_key(given)
        found = None
        for key in self.keys:
            # All of them are compared: the time must not tell where one was found.
            if hmac.compare_digest(digest, key.hash):
                found = key
        return found


def hash_key(key: str) -> str:
    """Returns what is kept of a key."""
    return _HASH + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def add_key(
    path: Path,
    name: str,
    *,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> str:
    """Makes a key, appends its hash to the file, and returns the key, which is kept nowhere.

    Raises:
        UsageError: There is a key of that name, or the file cannot be written.
    """
    if path.exists() and any(key.name == name for key in KeyRing.load(path).keys):
        raise UsageError(f"There is a key '{name}' in '{path}' already: choose another name.")
    key = PREFIX + secrets.token_urlsafe(32)
    values: dict[str, object] = {"name": name, "hash": hash_key(key)}
    if requests_per_minute is not None:
        values["requests_per_minute"] = requests_per_minute
    if tokens_per_minute is not None:
        values["tokens_per_minute"] = tokens_per_minute
    line = json.dumps(values) + "\n"
    _parse(line, "the new key")
    try:
        # Nobody else has to read even the hashes.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise UsageError(
            f"The file of API keys '{path}' cannot be written ({error.strerror}): name another one."
        ) from error
    return key


def _parse(line: str, place: str) -> ApiKey:
    """Returns the key of a line of the file.

    Raises:
        UsageError: It is none.
    """
    try:
        values = parse_object(line)
    except NotJson as error:
        raise UsageError(
            f"{place} is no key: a line is an object of JSON, as `longreach serve --add-key NAME`"
            " writes it."
        ) from error
    unknown = sorted(values.keys() - _FIELDS)
    if unknown:
        raise UsageError(f"{place} has the unknown field '{unknown[0]}': use {_listed()}.")
    name = values.get("name")
    digest = values.get("hash")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 100:
        raise UsageError(f"{place} needs a 'name' of 1 to 100 printable characters.")
    is_hash = isinstance(digest, str) and len(digest) == len(_HASH) + 64
    if not isinstance(digest, str) or not is_hash or not digest.startswith(_HASH):
        raise UsageError(
            f"{place} needs a 'hash' such as 'sha256:...': keys are never written down themselves."
        )
    limits = []
    for field in ("requests_per_minute", "tokens_per_minute"):
        limit = values.get(field)
        if limit is not None and (not isinstance(limit, int) or limit is True or limit < 1):
            raise UsageError(f"{place}: '{field}' must be a whole number of at least 1.")
        limits.append(limit)
    return ApiKey(name, digest.lower(), *limits)


def _listed() -> str:
    return ", ".join(sorted(_FIELDS))
