"""Fine-tune diffusion models in integers.

>>> import intaglio
>>> adapter = intaglio.attach(pipe.unet, intaglio.TuneQDM(num_intervals=4))  # over int4, in integers
>>> optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3)

Names are resolved on first use: `import intaglio` loads neither torch nor diffusers. It does let diffusers know, as
soon as diffusers is imported, that `quant_method: "intaglio"` is ours to load, and it asks
torch for huge pages (`memory.py`).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from intaglio.checkpoints.registration import register_when_imported
from intaglio.runtime.memory import ask_for_huge_pages

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "adapters.handle",
    "Base": "quantizers.base",
    "Full": "methods.full",
    "IntaglioConfig": "checkpoints.diffusers_quantizer",
    "Lora": "methods.lora",
    "METHODS": "methods.registry",
    "Method": "methods.base",
    "Peqa": "methods.peqa",
    "QLora": "methods.qlora",
    "QuantizedLora": "methods.int8_lora",  # the name of Int8Lora in version 0.1.0
    "Int8Lora": "methods.int8_lora",
    "ScaledLora": "methods.scaled_lora",
    "SmoothScales": "methods.smooth_scales",
    "TuneQDM": "methods.tuneqdm",
    "UserError": "errors",
    "attach": "adapters.attach",
    "load_adapter": "adapters.attach",
    "load_pipeline": "checkpoints.load",
    "quantize_pipeline": "checkpoints.quantize",
    "register_family": "families.registry",
}
__all__ = [
    "METHODS",
    "Adapter",
    "Base",
    "Full",
    "Int8Lora",
    "IntaglioConfig",
    "Lora",
    "Method",
    "Peqa",
    "QLora",
    "ScaledLora",
    "SmoothScales",
    "TuneQDM",
    "UserError",
    "attach",
    "load_adapter",
    "load_pipeline",
    "quantize_pipeline",
    "register_family",
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
    from intaglio.adapters.attach import attach, load_adapter
    from intaglio.adapters.handle import Adapter
    from intaglio.checkpoints.diffusers_quantizer import IntaglioConfig
    from intaglio.checkpoints.load import load_pipeline
    from intaglio.checkpoints.quantize import quantize_pipeline
    from intaglio.errors import UserError
    from intaglio.families.registry import register_family
    from intaglio.methods.base import Method
    from intaglio.methods.full import Full
    from intaglio.methods.int8_lora import Int8Lora
    from intaglio.methods.lora import Lora
    from intaglio.methods.peqa import Peqa
    from intaglio.methods.qlora import QLora
    from intaglio.methods.registry import METHODS
    from intaglio.methods.scaled_lora import ScaledLora
    from intaglio.methods.smooth_scales import SmoothScales
    from intaglio.methods.tuneqdm import TuneQDM
    from intaglio.quantizers.base import Base
