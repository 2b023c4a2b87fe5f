"""What quantizing the base costs before any fine-tuning: searches for ranges, and rounding for the layers' outputs.

    python benchmarks/base_quantizer.py                 # the embedded base, int8 and int4
    python benchmarks/base_quantizer.py --formats int4 --prompts 4
    python benchmarks/base_quantizer.py --formats int4,int4_g64 --save out/bases    # for recipes/base-quantizer.toml

For each format and way: the squared error of the weights and of the layers' outputs, each relative and summed over all
layers (inputs of prompts that the calibration did not see), and how far pictures move from the float base's, from equal
noise: drift is 1 - cosine of the encoder's features, rmse that of pixel levels 0..255. A JSON line a row.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from intaglio.checkpoints.calibration import input_grams, quantize_by_outputs
from intaglio.checkpoints.load import denoiser_of, load_pipeline
from intaglio.checkpoints.quantize import save_quantized
from intaglio.families.registry import denoisers_of
from intaglio.layers.quantize_model import BaseRecord, layers_to_quantize, quantize_model
from intaglio.metrics.encoders import DEFAULT_ENCODER, load_encoder
from intaglio.metrics.scores import mean_matched_cosine
from intaglio.quantizers.formats import parse_format
from intaglio.quantizers.quantize import to_rows
from intaglio.study.draw import Drawing, draw
from intaglio.study.plan import load_plan

WAYS = ("absmax", "percentile", "mse", "absmax+outputs", "mse+outputs")
"""A search for ranges, alone or with `quantizers.reconstruction`."""


def quantized(denoiser: nn.Module, format: str, way: str, grams: dict[str, Tensor]) -> nn.Module:
    search, _, outputs = way.partition("+")
    twin = copy.deepcopy(denoiser)
    if outputs:
        quantize_by_outputs(twin, grams, format, search)  # type: ignore[arg-type]
    else:
        quantize_model(twin, BaseRecord(format, search, denoisers_of(twin).keep_float))  # type: ignore[arg-type]
    return twin


@torch.no_grad()
def errors(denoiser: nn.Module, twin: nn.Module, grams: dict[str, Tensor]) -> dict[str, float]:
    """Squared errors of weights and of outputs, over the squares of both, summed over layers."""
    sums = dict.fromkeys(("weight", "weight_all", "output", "output_all"), 0.0)
    for name, gram in grams.items():
        before = to_rows(denoiser.get_submodule(name).weight).float()  # type: ignore[arg-type]
        missed = to_rows(twin.get_submodule(name).dequantized()) - before  # type: ignore[operator]
        sums["weight"] += float(missed.square().sum())
        sums["weight_all"] += float(before.square().sum())
        sums["output"] += float(((missed @ gram) * missed).sum())
        sums["output_all"] += float(((before @ gram) * before).sum())
    return {f"{kind}_error": sums[kind] / sums[f"{kind}_all"] for kind in ("weight", "output")}


def rmse(a: list[Image.Image], b: list[Image.Image]) -> float:
    levels = [np.stack([np.asarray(i, dtype=np.float64) for i in images]) for images in (a, b)]
    return float(np.sqrt(np.square(levels[0] - levels[1]).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--formats", default="int8,int4")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--prompts", type=int, default=8, help="to calibrate on; others test")
    parser.add_argument("--num_inference_steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--save", type=Path, help="keep the quantized pipelines here")
    parser.add_argument("--out", type=Path, default=Path("out/base-quantizer"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    component, denoiser = denoiser_of(pipeline)
    encoder = load_encoder(arguments.encoder)
    drawing = Drawing(num_inference_steps=arguments.num_inference_steps, seed=arguments.seed)
    # Calibration and test share no prompt and no noise.
    nouns = ("dog", "car", "flower", "house", "fish", "cake", "tree", "ship", "bird", "guitar")[: arguments.prompts]
    colours = ("red", "white", "blue", "yellow", "green")
    calibration = [f"a photo of a {noun} on a {colours[i % 5]} background" for i, noun in enumerate(nouns)]
    test = list(load_plan().prompts.unrelated)
    names = layers_to_quantize(denoiser, denoisers_of(denoiser).keep_float)
    grams = input_grams(denoiser, names, lambda: draw(pipeline, calibration, 1, drawing, "calibration"))
    drawn: list[list[Image.Image]] = []
    test_grams = input_grams(denoiser, names, lambda: drawn.extend(draw(pipeline, test, 1, drawing, "test")), seed=1)
    real = [images[0] for images in drawn]
    features = encoder.features(real)
    for format in arguments.formats.split(","):
        for way in arguments.ways.split(","):
            if "+outputs" in way and parse_format(format).group_size is not None:
                continue  # reconstruction knows one scale per output channel
            began = time.process_time()
            twin = quantized(denoiser, format, way, grams)
            row = {"format": format, "way": way, "cpu_s": round(time.process_time() - began, 1)}
            row |= errors(denoiser, twin, test_grams)
            setattr(pipeline, component, twin)
            if arguments.save is not None:
                save_quantized(pipeline, arguments.save / f"{format}-{way}", overwrite=True)
            made = [images[0] for images in draw(pipeline, test, 1, drawing, "test")]
            row |= {"drift": 1 - mean_matched_cosine(encoder.features(made), features), "rmse": rmse(made, real)}
            row |= {"encoder": encoder.name, "model": arguments.model, "n": len(test), "seed": arguments.seed}
            print(json.dumps(row), flush=True)
            with (arguments.out / "rows.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
