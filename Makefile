# `make demo` and `make test` need nothing but Python 3.10 or newer.
PY ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo install install-dev check type format layers test test-all clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	$(PY) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed ## install the package into .venv

install-dev: $(VENV)/.installed-dev ## install the package, the dev tools and (in a git checkout) the commit hooks
	@if [ -d .git ] && command -v pre-commit >/dev/null; then pre-commit install; fi

demo: $(VENV)/.installed ## train a toy network, take it apart, write runs/demo/report.html
	$(BIN)/microtome demo

check: $(VENV)/.installed-dev ## lint, formatting, types and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

type: $(VENV)/.installed-dev ## pyright
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-dev ## ruff: fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: check ## everything CI runs: checks and the tests not marked slow
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: check ## every test, the slow ones too
	$(BIN)/python -m pytest -n 2

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
