# `make audit` and `make test` need Python 3.11 or later, make and git; the first call sets the environment up.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/digits-0v8-$(shell date +%Y%m%d-%H%M%S)

.PHONY: audit test test-slow lint docs bench

audit: .venv/installed
	$(BIN)/mithridate audit digits-0v8 --out $(OUT)

test: .venv/developing
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: .venv/developing
	$(BIN)/pytest -m slow

lint: .venv/developing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: .venv/developing
	$(BIN)/mkdocs build --strict

bench: .venv/developing
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q --no-deps torchopt optree graphviz jaxopt
	$(BIN)/python benchmarks/hypergradient.py
	$(BIN)/python benchmarks/growth.py --model logistic network
	$(BIN)/python benchmarks/memory.py

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e .
	touch $@

.venv/developing: .venv/installed
	$(BIN)/pip install -q -e '.[dev]'
	touch $@
