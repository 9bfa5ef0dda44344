# Every target sets itself up: a machine with Python 3.11 and make is enough.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-from-pins

.PHONY: setup demo test core lint bench clean
setup: $(STAMP)

# Reinstalled only when the pins or the package's metadata change.
$(STAMP): pyproject.toml infra/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c infra/constraints.txt torch==2.13.0 -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/cisray demo

lint: setup
	$(BIN)/ruff check platform tests
	$(BIN)/ruff format --check platform tests
	$(BIN)/mypy

core: setup
	$(BIN)/pytest -m 'not ray'

test: lint
	$(BIN)/pytest -m 'not ray' --durations=5
	$(BIN)/pytest -m ray --durations=10

bench: setup
	@for b in tests/benchmarks/[a-z]*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

clean:
	rm -rf $(VENV) runs
