"""What intaglio quantized: `<layer>.qdata`, `.scale`, `.zero_point`, beside the float tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.checkpoints.sources.files import TensorFiles
from intaglio.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from intaglio.quantizers.quantize import QuantizedWeight

_PARTS = ("qdata", "scale", "zero_point")


class IntaglioSource:
    name = "intaglio"
    summary = "a folder that `intaglio quantize` wrote"

    def claims(self, path: Path, config: Mapping[str, Any] | None) -> bool:
        return config is not None and config.get("quant_method") == "intaglio"

    def weights(self, path: Path, config: Mapping[str, Any] | None) -> Iterator[tuple[str, QuantizedWeight | Tensor]]:
        """Convolutions are told by no tensor: every weight is (O, K) here, its own shape is the model's to know."""
        from intaglio.quantizers.formats import parse_format
        from intaglio.quantizers.quantize import QuantizedWeight

        format, files = parse_format(str((config or {}).get("format"))), TensorFiles(path)
        for name in files:
            layer, _, part = name.rpartition(".")
            if part == "qdata":
                qdata, scale = files.get(name), files.get(f"{layer}.scale")
                zero_point = None if format.symmetric else files.get(f"{layer}.zero_point")
                columns = 2 * qdata.shape[1] if format.bits == 4 else qdata.shape[1]
                if scale.shape != (len(qdata), format.num_groups(columns)):
                    raise UserError(f"{path}: {layer}: scales {tuple(scale.shape)} do not fit {format.name}")
                yield layer, QuantizedWeight(qdata, scale, zero_point, format, (len(qdata), columns))
            elif part not in _PARTS or f"{layer}.qdata" not in files:
                yield name, files.get(name)


SOURCE = IntaglioSource()
