# `make fit` and `make test` are all that a fresh machine needs: they build the environment .venv and use it again.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help fit test lint bench clean

help: ## print these lines
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-6s %s\n", $$1, $$2}' Makefile

fit: $(READY) ## train the embedded default; ARGS="..." adds or replaces arguments
	@$(BIN)/python -m ptm_lightning fit $(ARGS)

test: lint ## lint, then all tests in two processes; ARGS="..." goes to pytest
	@$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

lint: $(READY) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY) ## ours beside the peers, in one run; ARGS="--suite objectives" for one part of it
	@$(BIN)/python benchmarks/bench.py $(ARGS)

clean: ## remove the environment, caches and build outputs (runs/ stays)
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find ptm_lightning tasks callbacks configs tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# An environment points to the folder it was made in: in a moved or copied tree it would run the old folder's plug-ins.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Python 3.11 or newer is needed, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1);" \
	         "name another one, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "building the environment in .venv, once: about 2 minutes"
	@$(PYTHON) -m venv .venv
	@$(PIP) torch
	@$(PIP) --editable '.[test]'
	@echo '$(CURDIR)' > $@
