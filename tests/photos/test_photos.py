"""Folder layouts, and every mistake of a folder in one message."""

import json

import pytest

from fresh_interpreter import modules_after
from intaglio.data.photos import Photo, read_folder
from intaglio.errors import Problems, UserError


def rows(folder, *records):
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def test_bare_folder_with_one_prompt(tmp_path, photo):
    for name in ("b.JPG", "a.png", "c.WebP", "d.jpeg"):
        photo(tmp_path / name)
    for name in (".DS_Store", "LICENSE", "README.txt", "notes.md", "._a.png"):
        (tmp_path / name).write_text("x")
    found = read_folder(tmp_path, prompt="a photo of sks dog", repeats=3)
    names = ["a.png", "b.JPG", "c.WebP", "d.jpeg"]
    assert found == [Photo(tmp_path / name, "a photo of sks dog", 3) for name in names]


def test_text_files_win_over_the_prompt(tmp_path, photo):
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png")
    (tmp_path / "a.txt").write_text("\ufeff sks dog\n on grass \n", encoding="utf-8")
    assert [p.caption for p in read_folder(tmp_path, prompt="sks dog")] == ["sks dog on grass", "sks dog"]


def test_metadata(tmp_path, photo):
    photo(tmp_path / "a.png")
    photo(tmp_path / "deep" / "b.png")
    rows(tmp_path, {"file_name": "deep/b.png", "text": "two"}, "", {"file_name": "./a.png", "text": "one"})
    assert [(p.path.name, p.caption) for p in read_folder(tmp_path)] == [("a.png", "one"), ("b.png", "two")]


def test_metadata_with_other_columns(tmp_path, photo):
    photo(tmp_path / "a.png")
    rows(tmp_path, {"image": "a.png", "blip": "one"})
    assert read_folder(tmp_path, image_column="image", caption_column="blip")[0].caption == "one"


def test_kohya_folders_are_subjects(tmp_path, photo):
    photo(tmp_path / "10_sks dog" / "a.png")
    photo(tmp_path / "10_sks dog" / "b.png")
    (tmp_path / "10_sks dog" / "b.txt").write_text("sks dog asleep")
    photo(tmp_path / "2_zwx cat" / "a.png")
    found = [(p.path.name, p.caption, p.repeats) for p in read_folder(tmp_path, repeats=2)]
    assert found == [("a.png", "sks dog", 20), ("b.png", "sks dog asleep", 20), ("a.png", "zwx cat", 4)]


def test_all_problems_at_once(tmp_path, photo):
    photo(tmp_path / "good.png")
    photo(tmp_path / "small.png", (8, 8))
    photo(tmp_path / "uncaptioned.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "fake.webp").write_bytes(b"RIFFnothing")
    for stem in ("good", "small", "empty", "fake"):
        (tmp_path / f"{stem}.txt").write_text("a dog")
    photo(tmp_path / "blank.png")
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(Problems) as caught:
        read_folder(tmp_path)
    assert str(caught.value) == "\n".join(
        [
            f"{tmp_path}: 5 problems",
            "  - blank.txt: the caption is empty; write one or delete the file",
            "  - empty.jpg: the file is empty (0 bytes)",
            "  - fake.webp: its content is no JPEG, PNG or WebP; convert it or take it away",
            "  - small.png: 8 x 8 pixels; the shorter side must have at least 16",
            "  - uncaptioned.png: no caption: write 'uncaptioned.txt' beside it, or give one prompt for all photos "
            "with --instance_prompt",
        ]
    )


def test_all_problems_of_metadata_at_once(tmp_path, photo):
    for name in ("a.png", "b.png", "unnamed.png"):
        photo(tmp_path / name)
    rows(
        tmp_path,
        {"file_name": "a.png", "text": "one"},
        {"file_name": "a.png", "text": "two"},
        {"file_name": "gone.png", "text": "three"},
        {"file_name": "b.png", "caption": "four"},
        {"file_name": "../c.png", "text": "five"},
        {"text": "six"},
        "[1]",
        "{oops",
    )
    with pytest.raises(Problems) as caught:
        read_folder(tmp_path)
    fragments = [
        "line 2: names 'a.png' again (first: line 1)",
        "line 5: '../c.png' lies outside the folder",
        "line 6: no 'file_name'; name the column of the file names with --image_column (this line has: text)",
        'line 7: expected an object such as {"file_name": "a.jpg", "text": "..."}, not [1]',
        "line 8: not valid JSON",
        "line 3: names 'gone.png', which is not there",
        "line 4: no 'text' for 'b.png'; add one, name the column with --caption_column (this line has: file_name, "
        "caption), or give --instance_prompt",
        "unnamed.png: no row of metadata.jsonl names it",
    ]
    assert len(caught.value.problems) == len(fragments)
    for fragment in fragments:
        assert sum(fragment in problem for problem in caught.value.problems) == 1, fragment


def test_kohya_problems(tmp_path, photo):
    photo(tmp_path / "0_sks dog" / "a.png")
    photo(tmp_path / "stray.png")
    (tmp_path / "5_nothing").mkdir()
    with pytest.raises(Problems) as caught:
        read_folder(tmp_path)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["0_sks dog/", "5_nothing/", "stray.png"]


def test_missing_folder_file_and_empty_folder(tmp_path, photo):
    with pytest.raises(UserError, match="nowhere: no such folder; expected a folder of JPEG, PNG or WebP photos"):
        read_folder(tmp_path / "nowhere", prompt="x")
    with pytest.raises(UserError, match="is a file; expected a folder"):
        read_folder(photo(tmp_path / "x" / "a.png"), prompt="x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.heic").write_text("x")
    with pytest.raises(Problems, match=r"no JPEG, PNG or WebP in it \(it holds a.heic\)"):
        read_folder(tmp_path / "empty", prompt="x")


def test_unread_files_are_named_in_one_warning(tmp_path, photo, caplog):
    photo(tmp_path / "a.png")
    (tmp_path / "b.heic").write_text("x")
    (tmp_path / "orphan.txt").write_text("x")
    (tmp_path / "sub").mkdir()
    read_folder(tmp_path, prompt="sks dog")
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path}: not read: b.heic, orphan.txt, sub (photos are JPEG, PNG or WebP)"
    ]


def test_an_unused_prompt_is_said(tmp_path, photo, caplog):
    photo(tmp_path / "1_sks dog" / "a.png")
    read_folder(tmp_path, prompt="zwx cat")
    assert "the prompt 'zwx cat' is not used" in caplog.text


def test_folders_are_checked_without_torch():
    loaded = modules_after("import intaglio.data.photos, intaglio.data.hub")
    assert "intaglio.data.photos" in loaded
    assert "torch" not in loaded
