"""The command line, one command a verb."""

from longreach.cli.app import main

__all__ = ["main"]
