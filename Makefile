# make train · make test · make test-all · make lint · make bench · make gpu · make results · make lock · make audit · make licences · make demo · make help: each builds .venv from the lock when it must.
.DEFAULT_GOAL := help
.PHONY: help train demo test test-all lint bench gpu results lock audit licences venv clean
SHELL := /bin/sh

VENV := .venv
LOCK := $(VENV)/.installed-from-lock
STAMP := $(VENV)/.installed-package
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' >/dev/null 2>&1 && echo $$p && break; done)
ARGS ?=
BUDGET ?= 120

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'ARGS="..." passes Hydra overrides to make train, and options of pytest to make test.'

train: $(STAMP) ## Meta-train MAML on the embedded glyphs (ARGS="data=omniglot ..." changes what is run)
	$(VENV)/bin/python src/run.py experiment=quickstart $(ARGS)

demo: $(STAMP) ## Adapt a trained checkpoint to five printed letters, one image of each, and classify others
	$(VENV)/bin/python -m lightning_maml.data.sources.glyph_images experiments/demo
	$(VENV)/bin/python src/adapt.py ckpt=checkpoints/omniglot_5way_1shot.ckpt output=experiments/demo \
		support=experiments/demo/support query=experiments/demo/query $(ARGS)
	@echo 'Look at experiments/demo/predictions.png: each image with the letter that the network takes it for.'

test: $(STAMP) ## Run the tests that take a few minutes together
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow" $(ARGS)

test-all: $(STAMP) ## Run every test, those marked slow too
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(STAMP) ## Check format (ruff), types (mypy, for Linux, macOS and Windows) and floors (import-linter)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --platform darwin --cache-dir .mypy_cache/darwin
	$(VENV)/bin/mypy --platform win32 --cache-dir .mypy_cache/win32
	$(VENV)/bin/lint-imports

bench: $(STAMP) ## Measure the loader, and kill runs (needs Omniglot in DATASET_PATH; about half an hour)
	$(VENV)/bin/python -m benchmarks.speed.loader
	$(VENV)/bin/python -m benchmarks.faults.campaign

gpu: $(STAMP) ## Everything that a GPU is wanted for, in nine minutes: tests, speed, memory, a training; writes experiments/gpu.json
	$(VENV)/bin/python benchmarks/gpu.py $(ARGS)

results: $(STAMP) ## Run the published settings for BUDGET minutes, or resume them, and write docs/RESULTS.md
	$(VENV)/bin/python -m benchmarks.results.sweep --budget $(BUDGET) $(ARGS)

lock: $(LOCK) ## Rewrite requirements.txt from pyproject.toml, and repeat it there for uv sync
	@mkdir -p $(VENV)/lock
	sed '/^# The lock/,$$d' pyproject.toml >$(VENV)/lock/pyproject.toml
	cd $(VENV)/lock && ../bin/uv pip compile pyproject.toml --universal --group dev --extra all --upgrade --no-header --no-annotate \
		--quiet --output-file ../../requirements.txt
	{ cat $(VENV)/lock/pyproject.toml; echo '# The lock: requirements.txt again, for uv sync; make lock writes both.'; echo '[tool.uv]'; \
		echo 'constraint-dependencies = ['; sed 's/.*/    "&",/' requirements.txt; echo ']'; } >$(VENV)/lock/with-lock
	mv $(VENV)/lock/with-lock pyproject.toml

audit: $(LOCK) ## Ask for known advisories about everything in the lock (needs the network; fails if one cannot be asked about)
	@$(VENV)/bin/uv tool run pip-audit@2.10.1 --strict --no-deps --disable-pip --progress-spinner off -r requirements.txt || \
		{ echo 'audit: above stands an advisory, or why none could be asked for; the lock is not cleared'; exit 1; }

licences: $(STAMP) ## Rewrite docs/LICENCES.md: name, version and licence of everything in the lock that is installed here
	$(VENV)/bin/uv tool run pip-licenses@5.5.5 --python $(VENV)/bin/python --from mixed --order name --format markdown \
		--with-system --ignore-packages pip pip-licenses lightning-maml --output-file docs/LICENCES.md

venv: $(STAMP) ## Build .venv without running anything

clean: ## Remove .venv
	rm -rf $(VENV)

# The lock is complete, so pip resolves nothing: this is what overrides torchmeta's outdated pins (docs/install.md).
$(LOCK): requirements.txt
	@test -n "$(PYTHON)" || { echo 'No Python from 3.11 to 3.14 found: install one, or name it: make PYTHON=/path/to/python'; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	@touch $@

$(STAMP): $(LOCK) pyproject.toml setup.py src/lightning_maml.pth
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
