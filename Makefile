# Every target works on a machine that has only Python 3.11 or newer, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
WORKERS ?= 4
MINUTES ?= 5

.PHONY: help demo test lint check bench soak clean

help:
	@echo "make demo    play the two stories on real servers (under a minute once installed)"
	@echo "make test    run all tests"
	@echo "make lint    formatting, types, layers"
	@echo "make check   lint and test: what a change must pass"
	@echo "make bench   measure the gate, as ratios within one run (up to 15 minutes; ARGS=\"--size small\" is quick)"
	@echo "make soak    kill everything at any moment for MINUTES (5), then reconcile what arrived"

demo: $(VENV)/demo.stamp
	$(BIN)/notifygate demo

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

check: lint test

bench: $(VENV)/dev.stamp
	PYTHONPATH=.:tests $(BIN)/python -m benchmarks $(ARGS)

soak: $(VENV)/dev.stamp
	PYTHONPATH=.:tests $(BIN)/python -m soak --minutes $(MINUTES) $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# A newer Python is asked for in words, before pip refuses in its own.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[demo]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[dev]'
	@touch $@ $(VENV)/demo.stamp
