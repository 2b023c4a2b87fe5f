PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-slow check bench

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt "$$(grep -i '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,pretrain]"
	touch $@

demo: setup          ## the main job on the embedded base: pictures, scores and an adapter in out/demo
	$(BIN)/intaglio demo

test: setup          ## the default suite
	$(BIN)/python -m pytest

test-slow: setup     ## the checks that take minutes or gigabytes
	$(BIN)/python -m pytest -m slow

check: setup         ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup         ## time and memory of one step per method on this machine
	$(BIN)/python benchmarks/methods.py
