# Every target sets itself up: a machine with Python 3.11 and make is enough.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-from-pins

.PHONY: setup demo test core lint bench yeast clean
setup: $(STAMP)

# Installed again only when the pins or the package's metadata change.
$(STAMP): pyproject.toml infra/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c infra/constraints.txt torch==2.13.0 -e '.[dev]'
	touch $@

# The whole road on a genome whose truth is known.
demo: setup
	rm -rf runs/tiny
	$(BIN)/cisray simulate runs/tiny/simulated
	$(BIN)/cisray build    jobs/tiny/dataset.toml
	$(BIN)/cisray train    jobs/tiny/baseline.toml
	$(BIN)/cisray train    jobs/tiny/train.toml
	$(BIN)/cisray evaluate runs/tiny/model runs/tiny/dataset --beside runs/tiny/baseline --out runs/tiny/evaluation
	$(BIN)/cisray score    jobs/tiny/score.toml --set model=runs/tiny/model
	$(BIN)/cisray report   runs/tiny/dataset
	$(BIN)/cisray report   runs/tiny/evaluation
	$(BIN)/cisray report   runs/tiny/scores --truth runs/tiny/simulated/truth.tsv
	@echo "run report:   $(CURDIR)/runs/tiny/evaluation/report.html"
	@echo "score table:  $(CURDIR)/runs/tiny/scores"
	@echo "MLflow store: sqlite:///$(CURDIR)/runs/mlflow.db"

# The same road on real data; CISRAY_DATA names the folder that holds yeast/.
yeast: setup
	$(BIN)/cisray build    jobs/yeast/dataset.toml
	$(BIN)/cisray train    jobs/yeast/baseline.toml
	$(BIN)/cisray train    jobs/yeast/train.toml $(SMALL_TRAIN)
	$(BIN)/cisray evaluate runs/yeast/model runs/yeast/dataset --beside runs/yeast/baseline --out runs/yeast/evaluation
	$(BIN)/cisray score    jobs/yeast/score.toml --set model=runs/yeast/model $(SMALL_SCORE)
	$(BIN)/cisray report   runs/yeast/dataset
	$(BIN)/cisray report   runs/yeast/evaluation
	$(BIN)/cisray report   runs/yeast/scores

lint: setup
	$(BIN)/ruff check platform tests
	$(BIN)/ruff format --check platform tests
	$(BIN)/mypy

core: setup
	$(BIN)/pytest -m 'not ray' -n 2

test: lint
	$(BIN)/pytest -m 'not ray' -n 2 --durations=5
	$(BIN)/pytest -m ray --durations=10

bench: setup
	@for benchmark in tests/benchmarks/[a-z]*.py; do echo "== $$benchmark"; $(BIN)/python $$benchmark || exit 1; done

clean:
	rm -rf $(VENV) runs
