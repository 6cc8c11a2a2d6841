# Each target makes the virtual environment that it needs; once made, it costs nothing. Work on the code: CONTRIBUTING.md.
#
#   PYTHON=python3.12 make setup        another Python (3.11 or newer)
#   SPARSELIGHT_TORCH='torch==2.9.0'    another PyTorch: anything that `pip install` takes
#   ARGS='--set train.k=16' make demo   more arguments for the command

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
READY := .venv/.ready
PEERS_READY := .venv-peers/.ready
BENCH_READY := $(patsubst %,.venv-bench-%/.ready,saelens dictionarylearning sparsify overcomplete)

# Benchmarks that end within a few minutes on two cores, about ten together with the libraries beside ours.
BENCHMARKS := benchmarks/import_time.py benchmarks/train_step.py

.DEFAULT_GOAL := help
.PHONY: help setup fmt check test test-peers peers demo bench bench-setup docs

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## Make .venv: PyTorch, sparselight with all extras, and what the tests need

demo: $(READY) ## Corpus to report on this machine: a page of named, evidenced features, in minutes
	$(BIN)/sparselight demo $(ARGS)

# Each process computes on one thread: together they fill the cores. Tests of threads set their own number.
test: $(READY) ## All tests but the comparisons with other libraries, on several processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not peers" -n auto --maxprocesses=4 --dist loadfile $(ARGS)

test-peers: $(READY) peers ## Our files in other libraries and theirs here, each in an environment of its own
	$(BIN)/python -m pytest -m peers tests/peers $(ARGS)

peers: $(PEERS_READY) .venv-bench-dictionarylearning/.ready .venv-bench-sparsify/.ready ## Those environments

check: $(READY) ## Style, types, import order of the stages, generated pages
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python scripts/check_layers.py
	$(BIN)/python scripts/make_docs.py --check

fmt: $(READY) ## Mend what ruff can mend by itself
	$(BIN)/ruff check --fix

docs: $(READY) ## Write the generated pages and tables again
	$(BIN)/python scripts/make_docs.py

bench: $(READY) $(BENCH_READY) ## The quick benchmarks; results go to benchmarks/results
	for file in $(BENCHMARKS); do $(BIN)/python $$file || exit 1; done

bench-setup: $(BENCH_READY) ## The libraries that `make bench` measures beside ours, each in an environment of its own

# Compiled kernels that were built from other sources are not used.
KERNEL_SOURCES := $(wildcard src/sparselight/kernels/cpu/*.[ch]pp src/sparselight/kernels/cpu/build.py)

$(READY): pyproject.toml scripts/make_env.py $(KERNEL_SOURCES)
	@$(require_python)
	$(PYTHON) scripts/make_env.py dev
	@touch $@

$(PEERS_READY): tests/peers/requirements.txt scripts/make_env.py
	@$(require_python)
	$(PYTHON) scripts/make_env.py peers
	@touch $@

.venv-bench-%/.ready: scripts/make_env.py
	@$(require_python)
	$(PYTHON) scripts/make_env.py bench-$*
	@touch $@

define require_python
test -n "$(PYTHON)" || { echo "sparselight needs Python 3.11 or newer with venv (Debian, Ubuntu: apt install python3-venv); none was found. Name one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
endef
