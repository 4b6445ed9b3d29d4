"""An open corpus with its model: what commands, servers and programs work with.

Importing this package loads no torch, so that options are checked first.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from longreach.session.session import Session, open

if TYPE_CHECKING:
    from longreach.session.workspace import Workspace, open_or_create, open_workspace

__all__ = ["Session", "Workspace", "open", "open_or_create", "open_workspace"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'longreach.session' has no attribute '{name}'")
    return getattr(import_module("longreach.session.workspace"), name)
