# The project's commands; `make help` lists them. Each sets up what it needs.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The official evaluation, which tests hold ours to. Alone: it asks for a backport of `typing` that no Python of today takes.
CITYSCAPES := cityscapesscripts==2.3.0

.DEFAULT_GOAL := help
.PHONY: help install demo test slow lint format bench constraints clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(READY) ## make .venv with the pinned packages

# A newer pip first: the one that ships with Python 3.11 needs minutes to resolve what this one does at once.
$(READY): pyproject.toml infra/constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or newer is needed: install it, or name yours: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	@echo "installing into $(VENV): two to five minutes, once"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade 'pip>=25.3' 2>&1 | grep -v '^WARNING: Location' || true
	@$(BIN)/pip install --quiet --constraint infra/constraints.txt --editable '.[local,dev,dask,team]' \
		> $(VENV)/install.log 2>&1 || { tail -n 20 $(VENV)/install.log; exit 1; }
	@$(BIN)/pip install --quiet --no-deps $(CITYSCAPES) >> $(VENV)/install.log 2>&1 || { tail -n 20 $(VENV)/install.log; exit 1; }
	@touch $@

demo: $(READY) ## the whole way on generated street scenes: pictures, report, three minutes
	@$(BIN)/vitseg demo

# Two workers, a file at a time and in this order: many tests wait for servers, and the longest files come early.
test: $(READY) ## the whole test suite, with real servers and real processes; ten minutes
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

slow: $(READY) ## the three tests that take longest
	@$(BIN)/pytest -m slow

lint: $(READY) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## put the code into shape
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY) ## measure; ONLY=preprocess|loader|train|segment|quality|pretrain|ceiling for one part
	@$(BIN)/python -m tests.bench $(ONLY)

constraints: $(READY) ## resolve infra/constraints.txt anew from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --all-extras --python-version 3.11 --no-annotate --upgrade \
		--custom-compile-command "make constraints" --quiet --output-file infra/constraints.txt

clean: ## remove the environment and the servers' state
	@[ ! -x $(BIN)/vitseg ] || $(BIN)/vitseg stack down
	@rm -rf $(VENV) .vitseg vitseg-demo build *.egg-info
