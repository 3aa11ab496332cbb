# make train · make test · make lint · make bench · make lock · make demo · make help: each builds .venv from the lock when it must.
.DEFAULT_GOAL := help
.PHONY: help train demo test lint bench lock venv clean
SHELL := /bin/sh

VENV := .venv
LOCK := $(VENV)/.installed-from-lock
STAMP := $(VENV)/.installed-package
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' >/dev/null 2>&1 && echo $$p && break; done)
ARGS ?=

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'ARGS="..." passes Hydra overrides to make train, and options of pytest to make test.'

train: $(STAMP) ## Meta-train MAML on the embedded glyphs (ARGS="data=omniglot ..." changes what is run)
	$(VENV)/bin/python src/run.py experiment=quickstart $(ARGS)

demo: $(STAMP) ## Adapt a trained checkpoint to five printed letters, one image of each, and classify others
	$(VENV)/bin/python -m lightning_maml.data.glyph_images experiments/demo
	$(VENV)/bin/python src/adapt.py ckpt=checkpoints/omniglot_5way_1shot.ckpt output=experiments/demo \
		support=experiments/demo/support query=experiments/demo/query $(ARGS)
	@echo 'Look at experiments/demo/predictions.png: each image with the letter that the network takes it for.'

test: $(STAMP) ## Run every test
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 $(ARGS)

lint: $(STAMP) ## Check format (ruff), types (mypy) and floors (import-linter)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(STAMP) ## Measure speed and exercise faults (needs Omniglot in DATASET_PATH; about half an hour)
	$(VENV)/bin/python benchmarks/loader.py
	$(VENV)/bin/python benchmarks/faults.py

lock: $(LOCK) ## Rewrite requirements.txt from pyproject.toml
	$(VENV)/bin/uv pip compile pyproject.toml --universal --group dev --extra joblib --extra submitit --extra ray --extra optuna --extra onnx --upgrade --no-header --no-annotate \
		--quiet --output-file requirements.txt

venv: $(STAMP) ## Build .venv without running anything

clean: ## Remove .venv
	rm -rf $(VENV)

# The lock is complete, so pip resolves nothing: this is what overrides torchmeta's outdated pins (README.md).
$(LOCK): requirements.txt
	@test -n "$(PYTHON)" || { echo 'No Python 3.11, 3.12 or 3.13 found: install one, or name it: make PYTHON=/path/to/python'; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	@touch $@

$(STAMP): $(LOCK) pyproject.toml
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
