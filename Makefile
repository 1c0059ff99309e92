# The project's commands; `make help` lists them. Each one installs what it needs first.

# The first Python that is new enough and can make virtual environments. `make PYTHON=/path/to/python …` names another.
USABLE := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell $(name) -c '$(USABLE)' 2>/dev/null && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev

# The official evaluation, which tests compare ours with. Installed without its dependencies: one of them is a backport of
# `typing` that no current Python accepts.
CITYSCAPES := cityscapesscripts==2.3.0

.DEFAULT_GOAL := help
.PHONY: help install demo test slow odd lint format bench constraints clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(READY_DEV) ## create .venv with everything that tests and linters need

# $(call step,WHAT,COMMAND): run a command with its output in install.log; show what it does and for how many seconds.
define step
@start=$$(date +%s); \
[ ! -t 1 ] || while kill -0 $$$$ 2>/dev/null; do printf '\r  %-62s %3s s' "$(1)" $$(($$(date +%s) - start)); sleep 1; done & \
ticker=$$!; ( $(2) ) >> $(VENV)/install.log 2>&1; code=$$?; kill $$ticker 2>/dev/null; wait $$ticker 2>/dev/null; \
[ ! -t 1 ] || printf '\r'; printf '  %-62s %3s s\n' "$(1)" $$(($$(date +%s) - start)); \
[ $$code = 0 ] || { tail -n 20 $(VENV)/install.log; exit $$code; }
endef

# uv reads none of pip's settings, so it gets pip's index; and an environment that happens to be active is not ours.
UV_INSTALL = index=$${PIP_INDEX_URL:-$$($(BIN)/pip config get global.index-url 2>/dev/null)}; \
	$${index:+env UV_DEFAULT_INDEX=$$index} $(BIN)/uv pip install --python $(BIN)/python --constraint infra/constraints.txt
EXTRAS := local,dev,dask,team,onnx
COMPILE := PYTHONDONTWRITEBYTECODE= $(BIN)/python -c

# What `make demo` needs. pip installs torch, because it knows the user's own settings: a mirror, local wheels, the index
# of the CPU builds. uv installs the other packages in a tenth of pip's time. The last step writes the bytecode of what
# the demo imports, once instead of in each of its processes.
$(READY): pyproject.toml infra/constraints.txt
	@$(or $(PYTHON),false) -c '$(USABLE)' 2>/dev/null || { \
		echo "Python 3.11 or newer with venv is needed (Debian and Ubuntu: apt install python3-venv)."; \
		echo "Install it, or name yours: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	@echo "installing into $(VENV), once (details: $(VENV)/install.log)"
	@mkdir -p $(VENV)
	$(call step,a virtual environment of $(PYTHON),$(PYTHON) -m venv $(VENV))
	$(call step,torch by pip (without a GPU its CPU build is enough: README.md),$(BIN)/pip install --no-compile --constraint infra/constraints.txt torch uv)
	$(call step,all other packages by uv,$(UV_INSTALL) --editable '.[local]')
	$(call step,bytecode,$(COMPILE) 'import mlflow.server.fastapi_app' & $(COMPILE) 'import prefect.server.api.server; import flows.demo'; wait)
	@touch $@

# Tests and linters need more packages. All of them get bytecode: tests start many processes.
$(READY_DEV): $(READY)
	$(call step,packages for tests and linters by uv,$(UV_INSTALL) --editable '.[$(EXTRAS)]')
	$(call step,the Cityscapes evaluation,$(UV_INSTALL) --no-deps $(CITYSCAPES))
	$(call step,bytecode of all packages,$(BIN)/python -m compileall -q -j 0 $(VENV)/lib || true)
	@touch $@

demo: $(READY) ## the whole pipeline on generated street scenes: pictures and a report, three minutes
	@$(BIN)/vitseg demo

# Two workers, one file at a time, in this order: many tests wait for servers, and the longest files come early.
test: $(READY_DEV) ## the whole test suite, with real servers and real processes; twelve minutes
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

slow: $(READY_DEV) ## the few tests that `make test` leaves out because they take longest
	@$(BIN)/pytest -m slow

odd: $(READY_DEV) ## odd data sets and photographs, thousands of them: MINUTES=60 SEED=0
	@$(BIN)/python -m tests.odd --minutes $(or $(MINUTES),60) --seed $(or $(SEED),0)

lint: $(READY_DEV) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY_DEV) ## format the code and fix what ruff can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY_DEV) ## measure; ONLY=PART for one part (tests/bench/README.md lists them)
	@$(BIN)/python -m tests.bench $(ONLY)

constraints: $(READY) ## resolve infra/constraints.txt again from pyproject.toml
	@$(BIN)/uv pip compile pyproject.toml --all-extras --python-version 3.11 --no-annotate --upgrade \
		--custom-compile-command "make constraints" --quiet --output-file infra/constraints.txt

clean: ## remove the environment and the servers' state
	@[ ! -x $(BIN)/vitseg ] || $(BIN)/vitseg stack down
	@rm -rf $(VENV) .vitseg vitseg-demo build *.egg-info
