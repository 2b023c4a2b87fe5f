"""Tiny random pipelines on disk, one a family and session."""

from __future__ import annotations

import functools

import pytest

from tiny_pipelines import make_pipeline


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """`folder_of(name)` -> a saved pipeline."""

    @functools.cache
    def folder(name):
        path = tmp_path_factory.mktemp("models") / name
        make_pipeline(name).save_pretrained(path)
        return path

    return folder
