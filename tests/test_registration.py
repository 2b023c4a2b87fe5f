"""diffusers knows of us after `import intaglio`, whoever was imported first; and nothing heavy is imported for it."""

import importlib
import sys

import diffusers.quantizers
import pytest

import intaglio.checkpoints.diffusers_quantizer
from fresh_interpreter import modules_after, run_fresh
from intaglio.runtime.registration import register_when_imported

AUTO, OURS = "diffusers.quantizers.auto", "intaglio.checkpoints.diffusers_quantizer"
ORDERS = {
    "intaglio first": "import intaglio; import diffusers.quantizers.auto",
    "diffusers first": "import diffusers.quantizers.auto; import intaglio",
    "our quantizer first": "import intaglio; intaglio.IntaglioConfig",
}


@pytest.mark.parametrize("module", ["intaglio", "intaglio.runtime.registration", "intaglio.checkpoints.inspect"])
def test_import_is_light(module):
    loaded = modules_after(f"import {module}")
    assert module in loaded
    assert not {"torch", "diffusers", "transformers", "numpy"} & loaded


@pytest.mark.parametrize("order", ORDERS)
def test_import_orders(order, monkeypatch):
    """As in fresh interpreters, but only the two modules that matter are fresh. `test_fresh_interpreters` is honest."""
    monkeypatch.setattr(diffusers.quantizers, "auto", sys.modules[AUTO])
    monkeypatch.setattr(intaglio.checkpoints, "diffusers_quantizer", sys.modules[OURS])
    monkeypatch.delitem(sys.modules, AUTO)
    monkeypatch.delitem(sys.modules, OURS)
    if order == "diffusers first":
        importlib.import_module(AUTO)
    register_when_imported()
    importlib.import_module(OURS if order == "our quantizer first" else AUTO)
    auto = sys.modules[AUTO]
    assert auto.AUTO_QUANTIZER_MAPPING["intaglio"] is sys.modules[OURS].IntaglioQuantizer
    assert auto.AUTO_QUANTIZATION_CONFIG_MAPPING["intaglio"].__name__ == "IntaglioConfig"
    assert not [finder for finder in sys.meta_path if type(finder).__module__ == register_when_imported.__module__]


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_fresh_interpreters(order):
    known = f"from {AUTO} import AUTO_QUANTIZER_MAPPING as known; print(known['intaglio'].__name__)"
    assert run_fresh(f"{ORDERS[order]}\n{known}").strip() == "IntaglioQuantizer"
