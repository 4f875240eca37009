# `make demo`, `make demo-text` and `make test`. Everything lives in .venv; nothing outside this directory is touched.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# the tests of a file share what they compile, and the files that take long come early
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo demo-text test quick lint results clean

demo: $(VENV)/.installed
	$(BIN)/python -m experiments.demo --workdir runs/demo

demo-text: $(VENV)/.installed
	$(BIN)/python -m experiments.bert_demo --workdir runs/demo-text

test: lint
	$(BIN)/python -m pytest $(WORKERS)

# what takes less than about ten seconds a test
quick: $(VENV)/.tested
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# bring the tables of README.md, experiments/README.md, experiments/bench/README.md and ssljax/plan/README.md up to date
# with experiments/results/
results: $(VENV)/.installed
	$(BIN)/python -m experiments --write

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ssljax needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; run make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	touch $@

$(VENV)/.tested: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[test]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .venv312 .jax_cache build *.egg-info
