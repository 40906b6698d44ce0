# Everything runs from .venv, which is made from the lock on first use and again when the lock changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STATE_DIR ?= .billing
WORKERS ?= 1
BROKERS ?= 1
TESTERS ?= 2
HISTORIES ?= 1000

.DEFAULT_GOAL := help
.PHONY: help install demo up down test check bench soak scale

help: ## What there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv from the lock

$(STAMP): requirements-dev.lock pyproject.toml
	@echo "Installing into $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## A story of signed events through the whole system (ONCE=1: stop at its end)
	@$(BIN)/billing demo $(if $(ONCE),--once)

up: $(STAMP) ## The whole system, until Ctrl-C (STATE_DIR=.billing WORKERS=1 BROKERS=1)
	@$(BIN)/billing up --state-dir $(STATE_DIR) --workers $(WORKERS) --brokers $(BROKERS)

down: $(STAMP) ## End what runs in STATE_DIR
	@$(BIN)/billing down --state-dir $(STATE_DIR)

test: $(STAMP) ## All tests (ARGS=… goes to pytest)
	$(BIN)/pytest -n $(TESTERS) --dist loadfile $(ARGS)

check: $(STAMP) ## Lint, format, types, layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m ops.commands.contract --check

bench: $(STAMP) ## Measure (ARGS=…)
	@$(BIN)/billing bench $(ARGS)

soak: $(STAMP) ## Faults under load, then a check of every row (ARGS="--seed 7 --events 50000", --help)
	BILLING_HISTORIES=$(HISTORIES) $(BIN)/pytest -s --timeout 0 tests/contract/streams/test_histories.py
	$(BIN)/python -m tests.chaos.soak $(ARGS)

scale: $(STAMP) ## Workers and a broker come and go under load, standstill measured (ARGS="--workers 1,2,4,2,1", --help)
	$(BIN)/python -m tests.chaos.scale $(or $(ARGS),--restart-worker --kill-worker --own-group)
