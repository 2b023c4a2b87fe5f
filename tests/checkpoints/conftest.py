"""The tiny pipelines as folders, built once per session; and one of them quantized."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_pipelines import FAMILIES, make_pipeline


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


@pytest.fixture(scope="session")
def float_folders(tmp_path_factory) -> dict[str, Path]:
    """family -> folder of its float pipeline. Read only."""
    root = tmp_path_factory.mktemp("float")
    for family in FAMILIES:
        make_pipeline(family).save_pretrained(root / family)
    return {family: root / family for family in FAMILIES}


@pytest.fixture(scope="session")
def int4_folder(float_folders, tmp_path_factory) -> Path:
    """The Stable Diffusion pipeline, quantized to int4 by absmax, the quickest search. Read only."""
    from intaglio.checkpoints.quantize import quantize_pipeline

    out = tmp_path_factory.mktemp("int4") / "sd"
    quantize_pipeline(float_folders["sd"], out, format="int4", range_search="absmax")
    return out
