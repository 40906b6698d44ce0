# Everything runs from .venv. It is created from the lock file on first use, and updated when the lock file changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
STATE_DIR ?= .billing
WORKERS ?= 1
BROKERS ?= 1
# The tests wait for half of their time: on two cores three processes need a fifth less time than two.
TESTERS ?= 3
UNIT_TESTERS ?= 2
HISTORIES ?= 1000
LIVES ?= 10000
DRILL ?= 2000
IMAGE ?= billing-stream
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# The tests start hundreds of processes: each would compile the project's modules again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo up down test unit services services-stop chart-tools docs-tools docs sbom image pin-images check bench soak drill scale fuzz

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

install: $(STAMP) ## Create .venv from the lock file

$(STAMP): requirements-dev.lock pyproject.toml
	@echo "Installing into $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP) ## Send the signed events of a story through the whole system (ONCE=1: then stop)
	@$(BIN)/billing demo $(if $(ONCE),--once)

up: $(STAMP) ## Run the whole system until Ctrl-C (STATE_DIR=.billing WORKERS=1 BROKERS=1)
	@$(BIN)/billing up --state-dir $(STATE_DIR) --workers $(WORKERS) --brokers $(BROKERS)

down: $(STAMP) ## Stop the system in STATE_DIR
	@$(BIN)/billing down --state-dir $(STATE_DIR)

test: $(STAMP) ## Run all tests (ARGS=… is passed to pytest)
	$(BIN)/pytest -n $(TESTERS) --dist loadfile --durations=10 $(ARGS)

unit: $(STAMP) ## The tests that need no server (ARGS=… goes to pytest)
	$(BIN)/pytest -n $(UNIT_TESTERS) --dist loadfile tests/unit $(ARGS)

services: $(STAMP) ## Keep a broker and a Postgres running for pytest (services-stop ends them)
	@$(BIN)/python -m tests.services start

services-stop: $(STAMP)
	@$(BIN)/python -m tests.services stop

chart-tools: $(STAMP) ## Install what only the tests of the Helm chart need (100 MB)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements-chart.lock

docs-tools: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements-docs.lock

docs: docs-tools ## Build the docs as a site into site/
	$(BIN)/mkdocs build --quiet --strict

sbom: $(STAMP) ## List what an installation consists of, with licences (out/sbom.cdx.json, out/licenses.txt)
	@$(BIN)/python deploy/sbom.py out

image: ## Build the container image with its version and commit (IMAGE=billing-stream)
	docker build -t $(IMAGE):$(VERSION) \
	  --build-arg VERSION=$(VERSION) \
	  --build-arg BUILD="$$(git describe --tags --always --dirty)" \
	  --build-arg REVISION="$$(git rev-parse HEAD)" \
	  --build-arg CREATED="$$(git show -s --format=%cI HEAD)" .

pin-images: ## Pin the images of Dockerfile and compose file to the digests of their tags (needs docker)
	sh deploy/pin-images.sh

check: $(STAMP) ## Check lint, format, types, imports and the contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m ops.commands.contract --check

bench: $(STAMP) ## Run the benchmarks (ARGS=…)
	@$(BIN)/billing bench $(ARGS)

soak: $(STAMP) ## Inject faults under load, then check every row (ARGS="--seed 7 --events 50000", --help)
	BILLING_RANDOM_EXAMPLES=1 BILLING_HISTORIES=$(HISTORIES) $(BIN)/pytest -s --timeout 0 tests/contract/streams/test_histories.py
	BILLING_RANDOM_EXAMPLES=1 BILLING_EXAMPLES_TIMES=20 $(BIN)/pytest -s --timeout 0 tests/unit/streams/rules/test_histories.py tests/unit/streams/rules/test_payment_histories.py tests/unit/schemas/test_ordering.py tests/unit/sinks/email/test_skeletons.py
	BILLING_LIVES=$(LIVES) $(BIN)/pytest -s --timeout 0 tests/unit/oracle/test_stripe_lives.py
	BILLING_STORED_LIVES=$(LIVES) $(BIN)/pytest -s --timeout 0 tests/contract/streams/test_stripe_lives.py
	$(BIN)/python -m tests.chaos.soak $(ARGS)

drill: $(STAMP) ## Take over a business from another handler: import, shadow, switch (DRILL=2000 customers)
	BILLING_DRILL=$(DRILL) $(BIN)/pytest -s --timeout 0 --durations=1 tests/contract/recovery/test_drill.py

scale: $(STAMP) ## Stop and start workers and a broker under load, measure pauses (ARGS="--workers 1,2,4,2,1", --help)
	$(BIN)/python -m tests.chaos.scale $(or $(ARGS),--restart-worker --kill-worker --own-group)

fuzz: $(STAMP) ## Post hostile requests and odd signed events, then check every process and event (ARGS="--seed 7", --help)
	$(BIN)/python -m tests.chaos.fuzz $(ARGS)
