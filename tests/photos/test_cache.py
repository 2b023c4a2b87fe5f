"""What is encoded once, what is encoded anew, and what lies on the disk."""

import torch

from intaglio.data.cache import LatentCache, Posterior, TextCache
from intaglio.data.photos import Photo
from intaglio.data.transforms import PhotoTransform


class Encoder:
    """Counts what it is asked."""

    def __init__(self):
        self.asked = []

    def text(self, captions):
        self.asked += captions
        return {
            "embeds": torch.tensor([[[len(c)]] for c in captions]).bfloat16(),
            "pooled": torch.ones(len(captions), 2),
        }

    def images(self, pixels):
        self.asked += [pixels]
        return pixels[:, :1, ::8, ::8], torch.full_like(pixels[:, :1, ::8, ::8], -60.0)


def latents(photos, transform, encoder, folder=None, model_id="m"):
    cache = LatentCache(photos, transform, encoder.images, model_id=model_id, folder=folder)
    cache.fill(batch_size=2)
    return cache


def test_captions_are_encoded_once(tmp_path):
    encoder = Encoder()
    cache = TextCache(encoder.text, model_id="m", folder=tmp_path)
    cache.fill(["a", "abc", "a", ""])
    cache.fill(["abc"])
    assert encoder.asked == ["a", "abc", ""]
    batch = cache.get(["abc", "", "abc"])
    assert batch["embeds"].flatten().tolist() == [3, 0, 3]
    assert batch["embeds"].dtype == torch.bfloat16
    assert batch["pooled"].shape == (3, 2)
    again = TextCache(encoder.text, model_id="m", folder=tmp_path)
    again.fill(["a"])
    assert torch.equal(again.get(["a"])["embeds"], cache.get(["a"])["embeds"])
    assert len(encoder.asked) == 3
    TextCache(encoder.text, model_id="another", folder=tmp_path).fill(["a"])
    assert len(encoder.asked) == 4


def test_fixed_latents_are_kept_and_written(tmp_path, photo):
    photos = [Photo(photo(tmp_path / f"{i}.png", (16, 16 + 8 * i), seed=i), "x") for i in range(3)]
    encoder, folder = Encoder(), tmp_path / "cache"
    transform = PhotoTransform(resolution=16, center_crop=True)
    cache = latents(photos, transform, encoder, folder)
    assert cache.complete
    assert [len(batch) for batch in encoder.asked] == [2, 1]
    assert (cache.get(2).original_size, cache.get(2).crop_top_left) == ((32, 16), (8, 0))
    again = latents(photos, transform, encoder, folder)
    assert len(encoder.asked) == 2
    assert torch.equal(again.get(1).mean, cache.get(1).mean)
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]


def test_another_model_transform_or_image_is_encoded_again(tmp_path, photo):
    photos = [Photo(photo(tmp_path / "a.png", (16, 32)), "x")]
    encoder, folder = Encoder(), tmp_path / "cache"
    latents(photos, PhotoTransform(resolution=16, center_crop=True), encoder, folder)
    latents(photos, PhotoTransform(resolution=16, center_crop=True), encoder, folder, model_id="other")
    latents(photos, PhotoTransform(resolution=8, center_crop=True), encoder, folder)
    photo(tmp_path / "a.png", (16, 32), seed=9)
    latents(photos, PhotoTransform(resolution=16, center_crop=True), encoder, folder)
    assert len(encoder.asked) == 4


def test_a_damaged_file_is_replaced(tmp_path, photo, caplog):
    photos = [Photo(photo(tmp_path / "a.png", (16, 16)), "x")]
    encoder, folder = Encoder(), tmp_path / "cache"
    transform = PhotoTransform(resolution=16)
    latents(photos, transform, encoder, folder)
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:20])
    latents(photos, transform, encoder, folder)
    assert "encoding again" in caplog.text
    latents(photos, transform, encoder, folder)
    assert len(encoder.asked) == 2


def test_random_cuts_are_encoded_at_every_use_and_said_once(tmp_path, photo, caplog):
    photos = [Photo(photo(tmp_path / "a.png", (16, 40)), "x"), Photo(photo(tmp_path / "b.png", (16, 16)), "x")]
    encoder = Encoder()
    cache = latents(photos, PhotoTransform(resolution=16), encoder)
    assert not cache.complete
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["latents of 1 of 2 photos are not cached"]

    def crop(seed):
        return cache.get(0, torch.Generator().manual_seed(seed)).crop_top_left

    assert crop(1) == crop(1)
    assert len({crop(seed) for seed in range(9)}) > 1
    assert len(encoder.asked) == 1 + 11


def test_a_posterior_is_sampled_with_its_own_spread():
    posterior = Posterior(torch.full((1, 100, 100), 3.0), torch.full((1, 100, 100), 2.0).log(), (8, 8), (0, 0))
    sample = posterior.sample(torch.Generator().manual_seed(0))
    assert abs(sample.mean() - 3) < 5 * 2**0.5 / 100  # five standard errors
    assert abs(sample.var() - 2) < 5 * 2 * 2**0.5 / 100
    certain = Posterior(torch.ones(1, 2, 2), torch.full((1, 2, 2), -1e9), (8, 8), (0, 0))
    assert torch.allclose(certain.sample(), torch.ones(1, 2, 2), atol=1e-5)  # clamped at exp(-15) = 3e-7
