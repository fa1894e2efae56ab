PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The CPU build of torch, unless there is an NVIDIA GPU to use.
CONSTRAINTS := $(if $(shell command -v nvidia-smi 2>/dev/null),,-c constraints.txt)

.PHONY: setup demo test lint bench bench-check clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/nelbo train builtin:emoji --classes --out runs/demo
	$(BIN)/nelbo sample runs/demo --num 36 --sampler ancestral --steps 100 --path shifted --guidance 3 --animate
	$(BIN)/nelbo evaluate runs/demo
	@echo
	@echo "pictures:    runs/demo/samples/seed-0/grid.png (how they came about: reverse.webp beside it)"
	@echo "how good:    runs/demo/evaluation.json and runs/demo/evaluation.png"
	@echo "the run:     runs/demo (config.json, metrics.jsonl, checkpoints/, tensorboard/)"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest

# The peers, where they are wanted: $(BIN)/pip install --no-deps -r benchmarks/requirements-peers.txt
bench: setup
	$(BIN)/python -m benchmarks

bench-check: setup
	$(BIN)/python -m benchmarks check

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
