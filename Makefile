# `make audit` and `make test` need Python 3.11 or later, make and git; the first call sets the environment up.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= runs/digits-0v8-$(shell date +%Y%m%d-%H%M%S)
# Where Python may not keep what it has compiled, every process of a test run compiles all modules anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: audit test test-slow test-matrix test-newer lint docs bench fuzz lock audit-dependencies

audit: .venv/installed
	$(BIN)/mithridate audit digits-0v8 --out $(OUT)

test: .venv/developing
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: .venv/developing
	$(BIN)/pytest -m slow

# Each Python that is at hand, with the newest and the oldest of every dependency: the short list and the fast tests.
test-matrix: .venv/developing
	$(BIN)/python tests/matrix.py

# The short list alone, on the newest Python that is at hand, if that is newer than the one of `make test`.
test-newer: .venv/developing
	$(BIN)/python tests/matrix.py --newer --short --resolution highest

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

# Five minutes for every way by which a file gets in; FUZZ="csv npy" EACH=3600 for some, and longer.
FUZZ ?= csv arff packed parquet npz npy svmlight idx toml words run
EACH ?= 300
fuzz: .venv/developing
	$(BIN)/pip install -q "atheris>=3.0"
	for target in $(FUZZ); do $(BIN)/python fuzz/run.py $$target $(EACH) || exit 1; done

# The versions and hashes with which `pip install --require-hashes -r requirements.lock` installs.
lock: .venv/developing
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-emit-index-url --no-annotate --no-header --quiet --output-file requirements.lock

audit-dependencies: .venv/developing
	$(BIN)/pip install -q pip-audit
	$(BIN)/pip-audit --requirement requirements.lock --require-hashes --disable-pip

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e .
	touch $@

# uv is quicker; it does not read pip's settings, so pip is asked where it finds no packages.
.venv/developing: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q uv
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python -e '.[dev]' || $(BIN)/pip install -q -e '.[dev]'
	touch $@
