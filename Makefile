# Two commands do all the set-up: `make demo` runs the main job, `make test` the tests. Both make their own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
PAYMENTS ?= 200000

.PHONY: demo lifecycle notebooks test measured coverage lint docs check clean

demo: $(VENV)/.installed
	mkdir -p $(DEMO)
	$(BIN)/tsa simulate --payments $(PAYMENTS) --seed 1 --out $(DEMO)/payments.parquet
	$(BIN)/tsa run --market markets/demo.toml $(DEMO)/payments.parquet --out $(DEMO)/run --overwrite

# a model's life with a real endpoint, on simulated payments: the registry is a folder, then a server of MLflow
lifecycle: $(VENV)/.installed
	$(BIN)/python examples/lifecycle/run.py
	$(BIN)/python examples/lifecycle/run.py --mlflow

# the notebooks of examples/notebooks, each from top to bottom
notebooks: $(VENV)/.installed
	$(BIN)/python examples/notebooks/run.py

# REST=1 leaves out the tests that `make measured` runs
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 $(if $(REST),$(MEASURED:%=--ignore=tests/%)) $(PYTEST)

# packages whose tests are quick enough to measure each time, and the share of lines and branches that they must run
MEASURED = calibration data/aggregates data/encoding data/wire evaluation/metrics explain model simulation
MIN_MEASURED = 97
measured: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 $(MEASURED:%=tests/%) $(foreach package,$(subst /,.,$(MEASURED)),--cov=tsa.$(package)) \
		--cov-report=term:skip-covered --cov-fail-under=$(MIN_MEASURED)

# the share of lines that the tests must run, in percent; slower than `make test`
COVERAGE ?= 0
coverage: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered --cov-fail-under=$(COVERAGE)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

# the site of the docs in site/, warnings as errors
docs: $(VENV)/.installed
	$(BIN)/zensical build --clean --strict

check: lint docs test

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) site
