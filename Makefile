# One command each; the first one that needs it makes .venv with exactly what requirements.lock names.
PYTHON ?= python3
ARGS ?=
export PYTHON

BIN := .venv/bin
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# Simulators draw without a screen. dm_control would otherwise try a window first and warn.
ifeq ($(shell uname -s),Linux)
export MUJOCO_GL ?= egl
endif

.PHONY: help setup train test test-quick lint types same lock clean

help:
	@echo "make train       learn the quickstart task; more with ARGS=\"exp=... key=value\""
	@echo "make test        the whole suite        make test-quick  without the slow tests"
	@echo "make lint        ruff                   make types       mypy"
	@echo "make same BASE=<commit>   show that nothing that is computed has changed since then"
	@echo "make lock        renew requirements.lock (ARGS=--upgrade raises versions)"
	@echo "make clean       delete .venv and caches; runs/ stays"
	@echo "Another Python (3.11 to 3.13): make PYTHON=/path/to/python3.12 ..."

setup: .venv/.installed

train: setup
	$(BIN)/python train.py exp=quickstart $(ARGS)

# Tests are right on a busy machine, too: one thread does not wait for another. One process a core, each file in one,
# in the order of tests/conftest.py.
PYTEST = $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
test test-quick: export OMP_NUM_THREADS = 1

test: setup
	$(PYTEST) $(ARGS)

test-quick: setup
	$(PYTEST) -m "not slow" $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

same: setup
	$(BIN)/python benchmarks/same.py --base $(BASE) $(ARGS)

# Versions already in the lock are kept unless ARGS says otherwise (--upgrade, --upgrade-package torch).
lock: setup
	$(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
		--extra dmc --extra box2d --extra vizdoom --extra atari --extra play --extra recordings --extra ray --extra sweeps \
		--extra dev --generate-hashes --no-header --no-emit-index-url $(ARGS) \
		--output-file requirements.lock pyproject.toml >/dev/null

clean:
	rm -rf .venv worldmodel.egg-info build .pytest_cache .ruff_cache .mypy_cache

# setuptools goes first, out of the same lock: one package (antlr4, for hydra) comes as source only, and with
# build isolation pip would fetch a setuptools that no hash covers. --no-deps: the lock is complete.
.venv/.installed: requirements.lock pyproject.toml
	@if ! { $(BIN)/python -c "$(SUPPORTED)" && $(BIN)/python -m pip --version; } >/dev/null 2>&1; then \
		command -v "$$PYTHON" >/dev/null || { echo "$$PYTHON not found: name a Python with make PYTHON=..." >&2; exit 1; }; \
		"$$PYTHON" -c "$(SUPPORTED)" || { echo "Python 3.11, 3.12 or 3.13 is needed, and $$PYTHON is" \
			"$$("$$PYTHON" --version 2>&1): name another with make PYTHON=python3.12 ..." >&2; exit 1; }; \
		"$$PYTHON" -c "import venv, ensurepip" 2>/dev/null || { echo "$$PYTHON has no venv module:" \
			"on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }; \
		echo "Making .venv with $$("$$PYTHON" --version): a few minutes, several gigabytes."; \
		"$$PYTHON" -m venv --clear .venv; \
	fi
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock > .venv/setuptools.lock
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r .venv/setuptools.lock
	$(BIN)/python -m pip install --require-hashes --no-deps --no-build-isolation -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
