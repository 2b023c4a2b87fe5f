"""Whole or not at all, and never over what is there."""

from __future__ import annotations

import os

import pytest

from intaglio.files import new_folder, sweep, write_atomic, write_new


def text(content):
    return lambda path: path.write_text(content)


def test_a_new_file_never_takes_the_place_of_another(tmp_path):
    names = [write_new(tmp_path / "a.b.png", text(str(i))).name for i in range(3)]
    assert names == ["a.b.png", "a.b-2.png", "a.b-3.png"]
    assert [(tmp_path / name).read_text() for name in names] == ["0", "1", "2"]
    assert len(list(tmp_path.iterdir())) == 3


def test_also_without_hard_links(tmp_path, monkeypatch):
    def no_links(*arguments, **options):
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    names = [write_new(tmp_path / "a.png", text(str(i))).name for i in range(2)]
    assert names == ["a.png", "a-2.png"]


def test_what_fails_leaves_nothing(tmp_path):
    def fail(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    for write in (write_atomic, write_new):
        with pytest.raises(OSError, match="No space"):
            write(tmp_path / "a", fail)
    with pytest.raises(OSError, match="No space"), new_folder(tmp_path / "f") as folder:
        fail(folder / "a")
    assert not list(tmp_path.iterdir())


def test_modes_follow_the_umask(tmp_path):
    mask = os.umask(0o077)
    try:
        write_atomic(tmp_path / "a", text(""))
        with new_folder(tmp_path / "f") as folder:
            (folder / "b").write_text("")
    finally:
        os.umask(mask)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "a", tmp_path / "f", tmp_path / "f" / "b")]
    assert modes == [0o600, 0o700, 0o600]


def test_sweeping(tmp_path):
    (tmp_path / ".a.tmp-1").write_text("")
    (tmp_path / ".f.tmp-2").mkdir()
    (tmp_path / ".g.old").mkdir()
    (tmp_path / ".h.old").mkdir()
    (tmp_path / ".h.old" / "whole").write_text("the only copy")
    (tmp_path / "g").mkdir()
    (tmp_path / ".hidden").write_text("")
    assert {p.name for p in sweep(tmp_path)} == {".a.tmp-1", ".f.tmp-2", ".g.old"}
    assert (tmp_path / "h" / "whole").read_text() == "the only copy"
    assert {p.name for p in tmp_path.iterdir()} == {"g", "h", ".hidden"}
