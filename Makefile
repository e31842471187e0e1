# Every target does its own set-up: it makes .venv and installs what it needs, once.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types imports docs results clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-10s %s\n", $$1, $$2}'

demo: .venv/.demo ## The main job on real data (digits): runs/demo/report.html, under 3 minutes
	$(BIN)/guidestar compare recipes/demo.yaml --overwrite

test: .venv/.dev ## The whole test suite
	$(BIN)/python -m pytest -q

check: lint types imports docs ## Lint, types, import rules, documentation

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	$(BIN)/pyright

imports: .venv/.dev
	$(BIN)/lint-imports

docs: .venv/.dev ## Build the documentation into site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

results: .venv/.peers ## All results (about 150 minutes on two cores), the theory's figure, and the example of one tower
	$(BIN)/python scripts/results.py
	$(BIN)/python -m scripts.objectives
	$(BIN)/python -m scripts.ranking
	$(BIN)/python examples/theory/excess_risk.py
	$(BIN)/python examples/one_tower.py

clean: ## Remove the environment, runs and caches
	rm -rf .venv runs site .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# torch first and pinned, so that no other package brings in another build of it.
.venv/.torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch numpy
	@touch $@

.venv/.demo: .venv/.torch pyproject.toml
	$(PIP) --editable '.[demo]'
	@touch $@

.venv/.dev: .venv/.torch pyproject.toml
	$(PIP) --editable '.[dev]'
	@touch $@

# libauc and dro ask for many packages, torchvision among them, that what is used of them does not need.
.venv/.peers: .venv/.dev
	$(PIP) --editable '.[dev,peers]'
	$(PIP) --no-deps libauc dro
	@touch $@
