# Two commands set everything up: `make demo` and `make test`. Each makes .venv, installs, runs.
# PYTHON=python3.12 make test   picks the interpreter; PIP_CONSTRAINT=constraints/oldest.txt pins the versions.

# The newest supported Python found on PATH (a version manager's shim may be there and not run: so ask it).
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
    $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info)' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
# Processes that share the tests: one more than cores that this one may use, since some tests wait; each needs 1.5 GB.
WORKERS ?= $(shell $(BIN)/python -c "import os; print(min(8, 1 + len(getattr(os, 'sched_getaffinity', lambda _: range(os.cpu_count() or 1))(0))))")
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo install test test-slow test-browser evaluate docs schemas clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/art-classwise quickstart

# What all targets need, at once: pip takes less time than once for each.
install: $(VENV)/.all

# KIND: which of the tests, by their markers; those that are neither slow nor in need of a browser, if absent.
test: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) $(if $(KIND),-m "$(KIND)")

# Whole experiments of evaluations/, at their smallest, the notebooks of examples/, and other tests of ten seconds or more.
test-slow: $(VENV)/.test
	$(PYTEST) -m slow

# The report page in a real browser: one that is there, or one that is installed.
test-browser: $(VENV)/.browser
	$(PYTEST) -m browser tests/browser

# All experiments at quick size, about an hour on two cores, and the tables of evaluations/results/.
# DATA: folder of the data sets; CHECKPOINTS: of the published networks' weights. What is absent is left out.
DATA ?= data
CHECKPOINTS ?= checkpoints
evaluate: $(VENV)/.demo
	$(BIN)/python evaluations/summary.py --run --root "$(DATA)" --checkpoints "$(CHECKPOINTS)"

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

# art_classwise/schemas, after a change of the manifest or of a document of --json.
schemas: $(VENV)/.demo
	$(BIN)/python -m art_classwise.cli._schemas

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 or newer on PATH; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.all: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,browser,docs]'
	@touch $@ $(VENV)/.demo $(VENV)/.test $(VENV)/.docs

$(VENV)/.browser: $(VENV)/.all
	$(BIN)/python tests/browser/install.py
	@touch $@

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@ $(VENV)/.demo

clean:
	rm -rf site $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
