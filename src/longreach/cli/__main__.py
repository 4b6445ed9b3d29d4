"""`python -m longreach.cli`: the same commands where the package is not installed but on
PYTHONPATH."""

from longreach.cli.app import main

main()
