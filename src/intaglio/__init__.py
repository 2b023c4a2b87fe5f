"""Fine-tune diffusion models in integers.

>>> import intaglio
>>> adapter = intaglio.attach(pipe.unet, intaglio.TuneQDM(base="int4", num_intervals=4))
>>> optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3)

Names are resolved on first use: `import intaglio` loads neither torch nor diffusers. It does let diffusers know, as
soon as diffusers is imported, that `quant_method: "intaglio"` is ours to load, and it asks
torch for huge pages (`memory.py`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from intaglio.memory import ask_for_huge_pages
from intaglio.pipelines.registration import register_when_imported

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "methods.adapter",
    "Full": "methods.full",
    "IntaglioConfig": "pipelines.quantizer",
    "Lora": "methods.lora",
    "METHODS": "methods.registry",
    "Method": "methods.method",
    "Peqa": "methods.peqa",
    "QLora": "methods.qlora",
    "QuantizedLora": "methods.int8_lora",
    "ScaledLora": "methods.scaled_lora",
    "SmoothScales": "methods.smooth_scales",
    "TuneQDM": "methods.tuneqdm",
    "UserError": "errors",
    "attach": "methods.attach",
    "load_adapter": "methods.attach",
    "load_pipeline": "pipelines.load",
    "quantize_pipeline": "pipelines.quantize",
}
__all__ = [
    "METHODS",
    "Adapter",
    "Full",
    "IntaglioConfig",
    "Lora",
    "Method",
    "Peqa",
    "QLora",
    "QuantizedLora",
    "ScaledLora",
    "SmoothScales",
    "TuneQDM",
    "UserError",
    "attach",
    "load_adapter",
    "load_pipeline",
    "quantize_pipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'intaglio' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"intaglio.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


register_when_imported()
ask_for_huge_pages()

if TYPE_CHECKING:
    from intaglio.errors import UserError
    from intaglio.methods.adapter import Adapter
    from intaglio.methods.attach import attach, load_adapter
    from intaglio.methods.full import Full
    from intaglio.methods.int8_lora import QuantizedLora
    from intaglio.methods.lora import Lora
    from intaglio.methods.method import Method
    from intaglio.methods.peqa import Peqa
    from intaglio.methods.qlora import QLora
    from intaglio.methods.registry import METHODS
    from intaglio.methods.scaled_lora import ScaledLora
    from intaglio.methods.smooth_scales import SmoothScales
    from intaglio.methods.tuneqdm import TuneQDM
    from intaglio.pipelines.load import load_pipeline
    from intaglio.pipelines.quantize import quantize_pipeline
    from intaglio.pipelines.quantizer import IntaglioConfig
