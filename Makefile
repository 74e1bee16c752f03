# `make demo` and `make test` work on a bare machine with Python >= 3.10: they install into .venv first.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
INSTALLED := .venv/installed
# one thread and no flood of workers: what a small CPU needs, and what makes results repeat
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive nnUNet_n_proc_DA=0 nnUNet_def_n_proc=1

.PHONY: demo test check docs package format clean

demo: $(INSTALLED)
	$(BIN)/diffaug demo --out diffaug_demo

test: $(INSTALLED)
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 30

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pydoclint --quiet diffaug nnunet_plugin benchmarks
	$(MAKE) docs package
	$(MAKE) test

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict --quiet

package: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python >= 3.10 found; install one, or run: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv diffaug_demo build *.egg-info
