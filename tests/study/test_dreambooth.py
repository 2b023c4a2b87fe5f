"""google/dreambooth's layout, read as it is."""

import pytest
from PIL import Image

from intaglio.errors import Problems, UserError
from intaglio.study.tasks.load import load_manifest

FILE = """Classes

subject_name,class
bear_plushie,stuffed animal
dog2,dog

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
'a cube shaped {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} wearing a red hat'.format(unique_token, class_token),
]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "prompts_and_classes.txt").write_text(FILE)
    for subject, count in (("bear_plushie", 4), ("dog2", 5)):
        (tmp_path / subject).mkdir()
        for number in range(count):
            Image.new("RGB", (32, 24), (number, 0, 0)).save(tmp_path / subject / f"{number:02}.jpg")
    return tmp_path


def test_subjects_classes_and_prompts(folder):
    bear, dog = load_manifest(folder).tasks
    assert (bear.name, bear.instance_prompt) == ("bear_plushie", "a photo of sks stuffed animal")
    assert [p.text for p in bear.prompts["dreambooth"]] == [
        "a sks stuffed animal in the jungle",
        "a cube shaped sks stuffed animal",
    ]
    assert [p.text for p in dog.prompts["dreambooth"]] == ["a sks dog wearing a red hat"]
    assert len(bear.references["bear_plushie"]) == 4
    assert len(dog.learned["dog2"]) == 5
    assert (folder / dog.references["dog2"][0]).is_file()


def test_a_subject_without_photos(folder):
    for photo in (folder / "dog2").iterdir():
        photo.unlink()
    with pytest.raises(Problems, match="dog2: no photos in"):
        load_manifest(folder)


def test_another_file(folder):
    (folder / "prompts_and_classes.txt").write_text("hello")
    with pytest.raises(UserError, match="expected subjects with their classes"):
        load_manifest(folder)
