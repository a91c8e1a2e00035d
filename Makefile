# `make help` lists what there is. Prerequisites: git, make, Python >= 3.11.

VENV ?= .venv
PYTHON ?= python3
CORES ?= all
EXTRAS ?= dev
NAME ?=
PORT ?= 5000
VERBOSE ?=
EXTENT ?=

SHELL := /bin/bash
BIN := $(abspath $(VENV))/bin
# Of these extras: others are another set-up, which adds to what is installed.
STAMP := $(VENV)/.adaptive-inference-ready-$(subst $() ,,$(EXTRAS))
SNAKEMAKE = snakemake --cores $(CORES) $(if $(VERBOSE),--printshellcmds)
export PATH := $(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup run test format report ui preset results bench search apply missing keep publish clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv and install everything, pinned (the other targets do it when needed)

# The stamp comes last: an interrupted set-up is done again, a finished one is skipped until the pins change.
$(STAMP): pyproject.toml constraints.txt
	@command -v git >/dev/null || { echo "error: git is missing; install it first"; exit 2; }
	@"$(BIN)/python" -m pip --version >/dev/null 2>&1 || { $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "error: $(PYTHON) is not Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }; \
	  $(PYTHON) -m venv --clear $(VENV); }
	"$(BIN)/python" -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

run: $(STAMP) ## Bring everything in params.yaml up to date (VERBOSE=1: with all that Snakemake says)
	@$(SNAKEMAKE)

report: ## Say where the report of the last run is, and show it where there is a desktop
	@test -f results/report.html || { echo "error: there is no results/report.html yet; \`make run\` makes it"; exit 2; }
	@echo "Report: file://$(CURDIR)/results/report.html"
	@test -z "$${DISPLAY:-}$${WAYLAND_DISPLAY:-}" || xdg-open results/report.html 2>/dev/null || true

test: $(STAMP) ## Format and lint gates, then all tests
	ruff format --check .
	ruff check .
	snakefmt --check Snakefile workflow/rules
	snakemake --lint
	lint-imports
	python -m adaptive_pipeline.params.describe --check
	python -m pytest -n 2 --no-loadscope-reorder

format: $(STAMP) ## Format code and rules, and write what is generated from the params classes
	ruff format .
	ruff check --fix .
	snakefmt Snakefile workflow/rules
	python -m adaptive_pipeline.params.describe

ui: $(STAMP) ## Show the runs in MLflow (this machine only)
	@python -m adaptive_pipeline.tracking.ui --port $(PORT)

preset: $(STAMP) ## NAME=...: make a preset of presets/ the current params.yaml
	@python -m adaptive_pipeline.presets use "$(NAME)"

results: $(STAMP) ## NAME=...: rebuild docs/results/NAME from its kept records
	@python -m adaptive_pipeline.presets results "$(NAME)"

bench: $(STAMP) ## Time everything against stock models, at most 45 minutes on an idle machine (EXTENT=quick or full)
	@python benchmarks/run_all.py $(addprefix --,$(EXTENT))
	@python benchmarks/speed_page.py --out $(if $(filter quick,$(EXTENT)),bench,docs/results)

search: $(STAMP) ## NAME=...: search hyper-parameters by cross-validation on the train split (docs/search.md)
	@python -m adaptive_pipeline.search run "$(NAME)"

apply: $(STAMP) ## NAME=...: put the winner of a search into params.yaml
	@python -m adaptive_pipeline.search apply "$(NAME)"

missing: $(STAMP) ## Run only the cells of a preset whose records are not kept yet (then: make keep)
	@$(SNAKEMAKE) missing_cells

keep: $(STAMP) ## Add the small records of finished stages to docs/results/PRESET/records
	@python -m adaptive_pipeline.runs.keep

publish: $(STAMP) ## Give MLflow the runs that it lacks
	@python -m adaptive_pipeline.tracking.publish

clean: ## Remove what is cheap to rebuild: receipts, logs, report, MLflow's view (results and DVC's cache stay)
	rm -rf receipts logs dvc_plots .snakemake mlflow.db mlartifacts
