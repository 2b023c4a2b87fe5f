"""CLIP and DINO, with tiny random models in a local folder."""

import json

import pytest
import torch
from PIL import Image

from intaglio.errors import UserError
from intaglio.metrics.encoders import load_encoder

IMAGES = [Image.new("RGB", (40, 30), "red"), Image.new("RGBA", (20, 50), "blue")]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "cat</w>", "dog</w>", *"abcdefghijklmnopqrstuvwxyz"]
    text = CLIPTextConfig(**small, vocab_size=len(words), bos_token_id=0, eos_token_id=1, pad_token_id=1)
    vision = CLIPVisionConfig(**small, image_size=32, patch_size=8)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
    CLIPModel(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "crop_size": 32}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    ViTModel(config).save_pretrained(folder)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def test_clip_gives_the_projected_embeddings(clip_folder):
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    encoder = load_encoder(f"clip:{clip_folder}")
    assert encoder.name == f"clip:{clip_folder}"
    features = encoder.features(IMAGES)
    assert (features.shape, features.dtype) == ((2, 12), torch.float32)
    rgb = [image.convert("RGB") for image in IMAGES]
    pixels = AutoImageProcessor.from_pretrained(clip_folder)(images=rgb, return_tensors="pt")["pixel_values"]
    tokens = AutoTokenizer.from_pretrained(clip_folder)(["a cat"], return_tensors="pt")
    whole = CLIPModel.from_pretrained(clip_folder)(input_ids=tokens["input_ids"], pixel_values=pixels)
    unit = torch.nn.functional.normalize
    assert torch.allclose(unit(features), whole.image_embeds, atol=1e-6)
    assert torch.allclose(unit(encoder.text_features(["a cat"])), whole.text_embeds, atol=1e-6)


def test_clip_texts_share_the_space(clip_folder):
    encoder = load_encoder(f"clip:{clip_folder}")
    features = encoder.text_features(["a cat", "a dog dog"])
    assert features.shape == (2, 12)
    assert not torch.allclose(features[0], features[1])
    assert torch.allclose(features[:1], encoder.text_features(["a cat"]), atol=1e-6)  # padding changes nothing


def test_dino_gives_the_class_token(dino_folder):
    from transformers import AutoImageProcessor, AutoModel

    features = load_encoder(f"dino:{dino_folder}").features(IMAGES)
    rgb = [image.convert("RGB") for image in IMAGES]
    pixels = AutoImageProcessor.from_pretrained(dino_folder)(images=rgb, return_tensors="pt")["pixel_values"]
    expected = AutoModel.from_pretrained(dino_folder)(pixels).last_hidden_state[:, 0]
    assert torch.allclose(features, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_a_missing_model_names_the_way_out(kind, tmp_path):
    with pytest.raises(
        UserError, match=f"encoder '{kind}:.*nowhere' cannot be loaded .* use the encoder squeezenet1.1"
    ):
        load_encoder(f"{kind}:{tmp_path / 'nowhere'}")
