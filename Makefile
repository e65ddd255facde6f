# Needs only Python with pip: everything else is installed into .venv on first use.

PYTHON ?= python3
# On a machine without a GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu is a smaller download.
TORCH_INDEX ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.installed-docs
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-real test-gpu lint format docs

help:
	@echo "make quickstart   train, transfer and evaluate a small model offline  [ARGS=...]"
	@echo "make test         lint and all tests  [ARGS='-k config' for pytest]"
	@echo "make test-real    slow tests on real tokenizers, templates and a real model (folders in"
	@echo "                  TOKENKIT_TOKENIZERS, TOKENKIT_CHAT_TEMPLATES, TOKENKIT_MODELS)"
	@echo "make test-gpu     tests that need a GPU"
	@echo "make lint         ruff check, format check, types by mypy"
	@echo "make docs         the documentation as a site, site/index.html"
	@echo "make format       apply ruff's fixes and format"
	@echo "variables: PYTHON=$(PYTHON) (3.11 to 3.13), TORCH_INDEX=URL (extra index for torch), ARGS"

quickstart: $(INSTALLED)
	$(BIN)/python scripts/quickstart.py $(ARGS)

test: lint
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 3 --dist worksteal -q $(ARGS)

test-real: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m "real or golden" $(ARGS)

test-gpu: $(INSTALLED)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m gpu $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html"

# The stamp is newer than what it was installed from, so a second run installs nothing.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@$(PIP) --version >/dev/null || { \
	  echo "error: $(VENV) has no pip; remove that folder and run make again" >&2; exit 1; }
	@echo "installing into $(VENV) (once, some minutes) ..."
	$(PIP) install -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==2.13.0
	$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(PIP) install -c constraints.txt -e ".[docs]"
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: no $(PYTHON) here; install Python 3.11 to 3.13, or name one: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "error: $$($(PYTHON) --version) found, 3.11 to 3.13 needed; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments; install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
