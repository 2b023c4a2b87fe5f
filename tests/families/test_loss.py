"""Our loss against that of diffusers' script for the family, whose equations are written out here."""

import math

import pytest
import torch
from diffusers.training_utils import compute_loss_weighting_for_sd3

from intaglio.diffusion.objective import ObjectiveOptions
from intaglio.families.registry import family_of_pipeline
from intaglio.layers.timesteps import TimestepContext
from intaglio.training.batches import Batch
from intaglio.training.step import Loss
from tiny_pipelines import CAPTIONS, SIDES, pipeline_of

INDICES = torch.tensor([100, 640])
"""Of the scheduler's descending timesteps."""


def inputs(name):
    """The pipeline, pixels, noise of the denoiser's latents, and the encoder's latent."""
    pipe = pipeline_of(name)
    generator = torch.Generator().manual_seed(5)
    side = SIDES.get(name, 16)
    pixels = torch.rand(2, 3, side, side, generator=generator) * 2 - 1
    return pipe, pixels, generator


def ours(pipe, pixels, noise, t, options=None, guidance=None):
    family = family_of_pipeline(type(pipe).__name__)
    side = pixels.shape[-1]
    objective = family.objective(pipe, options or ObjectiveOptions(), side)
    mean, _ = family.encode_images(pipe, pixels)
    conditioning = family.encode_text(pipe, CAPTIONS)
    told = family.image_conditioning((side, side), (0, 0), side)
    conditioning |= {key: torch.tensor([value, value]) for key, value in told.items()}
    x0 = torch.stack([family.normalize(pipe, latent) for latent in mean])
    assert x0.shape == noise.shape
    batch = Batch(x0, noise, t.double(), conditioning, torch.ones(2))
    with torch.no_grad():
        return Loss(family, objective, TimestepContext(), guidance)(pipe.transformer, batch, samples=2)


def noise_like(latents, generator):
    return torch.randn(latents.shape, generator=generator)


def levels(pipe):
    """sigma and timestep of the indices, as the scripts look them up (of a scheduler that has no shift at rest)."""
    return pipe.scheduler.sigmas[INDICES], pipe.scheduler.timesteps[INDICES]


def mean_square(prediction, target, weighting=1.0):
    error = (weighting * (prediction.float() - target.float()) ** 2).reshape(len(target), -1)
    return error.mean(1).mean()


@pytest.mark.parametrize("scheme", ["logit_normal", "sigma_sqrt", "cosmap"])
def test_sd3(scheme):
    """train_dreambooth_lora_sd3.py, `--precondition_outputs 1`, its default."""
    pipe, pixels, generator = inputs("sd3")
    with torch.no_grad():
        latents = pipe.vae.encode(pixels).latent_dist.mean
        latents = (latents - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
        noise = noise_like(latents, generator)
        sigma, timesteps = levels(pipe)
        s = sigma.view(-1, 1, 1, 1)
        noisy = (1 - s) * latents + s * noise
        embeds, _, pooled, _ = pipe.encode_prompt(CAPTIONS, CAPTIONS, CAPTIONS, do_classifier_free_guidance=False)
        predicted = pipe.transformer(
            hidden_states=noisy, timestep=timesteps, encoder_hidden_states=embeds, pooled_projections=pooled
        ).sample
        predicted = predicted * (-s) + noisy
        expected = mean_square(predicted, latents, compute_loss_weighting_for_sd3(scheme, s))
    got = ours(pipe, pixels, noise, sigma, ObjectiveOptions(weighting_scheme=scheme))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_flux(guidance):
    """train_dreambooth_lora_flux.py."""
    from tiny_pipelines import _make_flux

    torch.manual_seed(0)
    pipe = _make_flux(guidance_embeds=True)
    _, pixels, generator = inputs("flux")
    with torch.no_grad():
        latents = pipe.vae.encode(pixels).latent_dist.mean
        latents = (latents - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
        noise = noise_like(latents, generator)
        sigma, timesteps = levels(pipe)
        s = sigma.view(-1, 1, 1, 1)
        noisy = (1 - s) * latents + s * noise
        b, c, h, w = latents.shape
        embeds, pooled, text_ids = pipe.encode_prompt(CAPTIONS, CAPTIONS)
        predicted = pipe.transformer(
            hidden_states=pipe._pack_latents(noisy, b, c, h, w),
            timestep=timesteps / 1000,
            guidance=torch.tensor([guidance]).expand(b),
            pooled_projections=pooled,
            encoder_hidden_states=embeds,
            txt_ids=text_ids,
            img_ids=pipe._prepare_latent_image_ids(b, h // 2, w // 2, "cpu", noisy.dtype),
        ).sample
        predicted = pipe._unpack_latents(predicted, h * pipe.vae_scale_factor, w * pipe.vae_scale_factor, 2)
        expected = mean_square(predicted, noise - latents)
    torch.testing.assert_close(ours(pipe, pixels, noise, sigma, guidance=guidance), expected, rtol=1e-5, atol=0)


def test_flux2_klein():
    """train_dreambooth_lora_flux2_klein.py."""
    pipe, pixels, generator = inputs("flux2-klein")
    with torch.no_grad():
        latents = pipe._patchify_latents(pipe.vae.encode(pixels).latent_dist.mode())
        bn = pipe.vae.bn
        mean, variance = bn.running_mean.view(1, -1, 1, 1), bn.running_var.view(1, -1, 1, 1)
        latents = (latents - mean) / torch.sqrt(variance + pipe.vae.config.batch_norm_eps)
        noise = noise_like(latents, generator)
        sigma, timesteps = levels(pipe)
        s = sigma.view(-1, 1, 1, 1)
        noisy = (1 - s) * latents + s * noise
        embeds, text_ids = pipe.encode_prompt(CAPTIONS)
        image_ids = pipe._prepare_latent_ids(latents)
        predicted = pipe.transformer(
            hidden_states=pipe._pack_latents(noisy),
            timestep=timesteps / 1000,
            guidance=None,
            encoder_hidden_states=embeds,
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0]
        predicted = pipe._unpack_latents_with_ids(predicted, image_ids)
        expected = mean_square(predicted, noise - latents)
    torch.testing.assert_close(ours(pipe, pixels, noise, sigma), expected, rtol=1e-5, atol=0)


def test_z_image():
    """train_dreambooth_lora_z_image.py: reversed time, a prediction of the other sign, captions of their own length."""
    pipe, pixels, generator = inputs("z-image")
    with torch.no_grad():
        latents = pipe.vae.encode(pixels).latent_dist.mean
        latents = (latents - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
        noise = noise_like(latents, generator)
        sigma, timesteps = levels(pipe)
        s = sigma.view(-1, 1, 1, 1)
        noisy = (1 - s) * latents + s * noise
        embeds, _ = pipe.encode_prompt(list(CAPTIONS), do_classifier_free_guidance=False)
        assert len({len(e) for e in embeds}) == 2
        predicted = pipe.transformer(
            list(noisy.unsqueeze(2).unbind(0)), (1000 - timesteps) / 1000, embeds, return_dict=False
        )[0]
        predicted = -torch.stack(predicted).squeeze(2)
        expected = mean_square(predicted, noise - latents)
    torch.testing.assert_close(ours(pipe, pixels, noise, sigma), expected, rtol=1e-5, atol=0)


def test_qwen_image():
    """train_dreambooth_lora_qwen_image.py, with the mask that it passes on."""
    pipe, pixels, generator = inputs("qwen-image")
    with torch.no_grad():
        latents = pipe.vae.encode(pixels.unsqueeze(2)).latent_dist.mean
        config = pipe.vae.config
        mean = torch.tensor(config.latents_mean).view(1, config.z_dim, 1, 1, 1)
        latents = (latents - mean) * (1.0 / torch.tensor(config.latents_std).view(1, config.z_dim, 1, 1, 1))
        noise = noise_like(latents, generator)
        sigma, timesteps = levels(pipe)
        s = sigma.view(-1, 1, 1, 1, 1)
        noisy = (1 - s) * latents + s * noise
        b, c, _, h, w = latents.shape
        embeds, mask = pipe.encode_prompt(CAPTIONS)
        assert not mask.all(), "captions of two lengths"
        predicted = pipe.transformer(
            hidden_states=pipe._pack_latents(noisy.permute(0, 2, 1, 3, 4), b, c, h, w),
            encoder_hidden_states=embeds,
            encoder_hidden_states_mask=mask,
            timestep=timesteps / 1000,
            img_shapes=[(1, h // 2, w // 2)] * b,
            return_dict=False,
        )[0]
        predicted = pipe._unpack_latents(predicted, h * pipe.vae_scale_factor, w * pipe.vae_scale_factor, 2)
        expected = mean_square(predicted, noise - latents)
    got = ours(pipe, pixels, noise.squeeze(2), sigma)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=0)


def test_krea2():
    """train_dreambooth_lora_krea2.py."""
    pipe, pixels, generator = inputs("krea2")
    with torch.no_grad():
        latents = pipe.vae.encode(pixels.unsqueeze(2)).latent_dist.mean.squeeze(2)
        config = pipe.vae.config
        mean, deviation = (torch.tensor(each).view(1, -1, 1, 1) for each in (config.latents_mean, config.latents_std))
        latents = (latents - mean) / deviation
        noise = noise_like(latents, generator)
        sigma, timesteps = levels(pipe)
        s = sigma.view(-1, 1, 1, 1)
        noisy = (1 - s) * latents + s * noise
        b, c, h, w = latents.shape
        embeds, mask = pipe.encode_prompt(CAPTIONS)
        predicted = pipe.transformer(
            hidden_states=pipe._pack_latents(noisy, b, c, h, w),
            encoder_hidden_states=embeds,
            timestep=timesteps / 1000,
            position_ids=pipe.prepare_position_ids(embeds.shape[1], h // 2, w // 2, "cpu"),
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]
        predicted = pipe._unpack_latents(predicted, h * pipe.vae_scale_factor, w * pipe.vae_scale_factor).squeeze(2)
        expected = mean_square(predicted, noise - latents)
    torch.testing.assert_close(ours(pipe, pixels, noise, sigma), expected, rtol=1e-5, atol=0)


def test_sana():
    """train_dreambooth_lora_sana.py: raw timesteps, a latent that is only scaled."""
    pipe, pixels, generator = inputs("sana")
    with torch.no_grad():
        latents = pipe.vae.encode(pixels).latent * pipe.vae.config.scaling_factor
        noise = noise_like(latents, generator)
        sigma, timesteps = levels(pipe)
        s = sigma.view(-1, 1, 1, 1)
        noisy = (1 - s) * latents + s * noise
        import inspect

        instruction = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
        embeds, mask, _, _ = pipe.encode_prompt(CAPTIONS, False, complex_human_instruction=instruction)
        predicted = pipe.transformer(
            hidden_states=noisy, encoder_hidden_states=embeds, encoder_attention_mask=mask, timestep=timesteps
        ).sample
        expected = mean_square(predicted, noise - latents)
    torch.testing.assert_close(ours(pipe, pixels, noise, sigma), expected, rtol=1e-5, atol=0)


def test_pixart():
    """DDPM epsilon on a model that predicts a variance beside it, which the loss leaves out."""
    pipe, pixels, generator = inputs("pixart")
    steps = torch.tensor([100, 640])
    with torch.no_grad():
        latents = pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor
        noise = noise_like(latents, generator)
        alpha_bar = pipe.scheduler.alphas_cumprod[steps].view(-1, 1, 1, 1)
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        embeds, mask, _, _ = pipe.encode_prompt(CAPTIONS, False)
        predicted = pipe.transformer(
            noisy,
            encoder_hidden_states=embeds,
            encoder_attention_mask=mask,
            timestep=steps,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample.chunk(2, dim=1)[0]
        expected = mean_square(predicted, noise)
    torch.testing.assert_close(ours(pipe, pixels, noise, steps / 1000), expected, rtol=1e-5, atol=0)


def test_a_caption_does_not_feel_the_padding_of_its_neighbour():
    """Batch of two captions of different lengths: each sample's prediction is that of the sample alone."""
    for name in ("z-image", "qwen-image", "krea2"):
        pipe = pipeline_of(name)
        family = family_of_pipeline(type(pipe).__name__)
        conditioning = family.encode_text(pipe, CAPTIONS)
        x_t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        time = family.time.to_model(torch.tensor([0.3, 0.3]))
        with torch.no_grad():
            together = family.predict(pipe.transformer, x_t, time, conditioning, None)
            for i, caption in enumerate(CAPTIONS):
                alone = family.encode_text(pipe, [caption])
                single = family.predict(pipe.transformer, x_t[i : i + 1], time[:1], alone, None)
                torch.testing.assert_close(together[i : i + 1], single, rtol=1e-4, atol=1e-5, msg=f"{name} {caption}")
    assert math.isfinite(together.sum())
