# `make echo` and `make test` set everything up by themselves; see tools/setup for how.

# Only what is loaded from a .pyc has immortal constants, which threads share freely.
unexport PYTHONDONTWRITEBYTECODE

PY := .venv/bin/python
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup echo table test lint docs clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "Arguments pass through ARGS: make test ARGS='-k channel -x'"

setup: ## find or build a free-threaded Python, make .venv
	@tools/setup

echo: setup ## the echo benchmark, server and load over loopback TCP
	@$(PY) -X gil=0 -m goroutine.bench echo $(ARGS)

table: setup ## all benchmarks, as a table
	@$(PY) -X gil=0 -m goroutine.bench table $(ARGS)

test: setup ## the tests
	@$(PY) -m pytest $(ARGS)

lint: setup ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: setup ## the documentation as a site, in build/docs
	@$(PY) -m pip install -q --disable-pip-version-check --group docs
	@NO_MKDOCS_2_WARNING=1 $(PY) -X gil=0 -m mkdocs build --strict

clean: ## remove .venv and what tools left in the tree; a Python built in the cache stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove the Python built in the user's cache
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/goroutine"
