"""Train the autoencoder: 64 x 64 pictures to 8 x 8 latents of 16 channels and back.

    python -m pretrain.train_vae --minutes 30                 # from nothing
    python -m pretrain.train_vae --minutes 9 --total_minutes 30 --resume   # one piece after another
    python -m pretrain.train_vae --init src/intaglio/assets/base/vae                  # further, from committed weights
    python -m pretrain.train_vae --init src/intaglio/assets/base/vae --decoder_only   # the latents stay as they are

The posterior's variance is fixed (0.1 squared), so the KL term is a small penalty on the squared mean: the latents
stay smooth enough to generate, and training starts without the blur of a random variance. Pixel errors alone leave
edges soft, so a perceptual loss joins them (Zhang et al. 2018, LPIPS without its learned weights). Its network is
SqueezeNet, never EfficientNet-Lite: that one is the judge of the demo and of the benchmark.
"""

import argparse
import copy
import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn
from torch.nn import functional

from intaglio.metrics.encoders.squeezenet import SqueezeNet
from pretrain.captions import backgrounds
from pretrain.data import PACK, Pack, load_pack
from pretrain.optim import MovingAverage, learning_rate_factor, optimizers, set_learning_rate
from pretrain.runtime import Budget, append_log, mixed_precision, pick_device, save_checkpoint

POSTERIOR_STD = 0.1
KL_WEIGHT = 1e-3


def new_vae() -> AutoencoderKL:
    """2.6 M parameters; no attention, so a picture of any size divisible by 8 passes."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        block_out_channels=(16, 32, 64, 128),  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=64,
        mid_block_add_attention=False,
    )
    assert vae.quant_conv is not None
    assert vae.quant_conv.bias is not None
    with torch.no_grad():  # the second half of the moments is the log variance: constant
        vae.quant_conv.weight[16:] = 0
        vae.quant_conv.bias[16:] = 2 * math.log(POSTERIOR_STD)
    return vae


def encode(vae: AutoencoderKL, pictures: Tensor) -> DiagonalGaussianDistribution:
    """The posterior of (B, 3, 64, 64) pictures: a mean and a deviation of (B, 16, 8, 8)."""
    return vae.encode(pictures).latent_dist  # pyright: ignore[reportAttributeAccessIssue]


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    return vae.decode(latents).sample  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]


@torch.no_grad()
def standardized(vae: AutoencoderKL, pictures: Tensor) -> AutoencoderKL:
    """A copy whose latents have mean 0 and deviation 1 in every channel, folded into the two 1 x 1 convolutions.

    A pipeline has one `scaling_factor` for all channels; after the folding it is exactly 1.
    """
    copied = copy.deepcopy(vae)
    mean = torch.cat([encode(vae, part).mean for part in pictures.split(64)])
    shift, scale = mean.mean((0, 2, 3)), mean.std((0, 2, 3))
    before, after = copied.quant_conv, copied.post_quant_conv
    assert before is not None
    assert before.bias is not None
    assert after is not None
    assert after.bias is not None
    before.weight[:16] /= scale[:, None, None, None]
    before.bias[:16] = (before.bias[:16] - shift) / scale
    before.bias[16:] -= 2 * scale.log()
    after.bias += after.weight[:, :, 0, 0] @ shift
    after.weight *= scale[:, None, None]
    copied.register_to_config(scaling_factor=1.0)
    return copied


def composite(rgba: Tensor, colour: Tensor) -> Tensor:
    """Drawings (B, H, W, 4) uint8 over backgrounds (B, 3) in 0..255 -> pictures (B, 3, H, W) in -1..1."""
    pixels = rgba.permute(0, 3, 1, 2).float()
    alpha = pixels[:, 3:] / 255
    return (pixels[:, :3] * alpha + colour[:, :, None, None] * (1 - alpha)) / 127.5 - 1


def random_batch(drawings: Tensor, table: Tensor, size: int) -> Tensor:
    """Random drawings on named (70 %) or random backgrounds, mirrored and shifted by up to 3 pixels."""
    device = drawings.device
    picked = drawings[torch.randint(len(drawings), (size,), device=device)]
    named = table[torch.randint(len(table), (size,), device=device)]
    anything = 255 * torch.rand(size, 3, device=device)
    colour = torch.where(torch.rand(size, 1, device=device) < 0.7, named, anything)
    if torch.rand(()) < 0.5:
        picked = picked.flip(2)
    shift = [int(step) for step in torch.randint(-3, 4, (2,))]
    return composite(picked.roll(shift, (1, 2)), colour).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 and squared error of the pixels, and L1 of their differences, which keeps edges sharp."""
    error = output.float() - target
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + error.square().mean() + 0.5 * edges


class PerceptualLoss(nn.Module):
    """Mean squared difference of unit-length features of SqueezeNet at three depths, at twice the picture's size."""

    STAGES = ("relu1", "fire3", "fire5")

    def __init__(self, device: torch.device):
        super().__init__()
        self.encoder = SqueezeNet(device)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar, of two (B, 3, H, W) in -1..1; differentiable in `output`."""
        with torch.no_grad():
            wanted = self._features(target)
        pairs = zip(self._features(output.float()), wanted, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).mean()

    def _features(self, pictures: Tensor) -> list[Tensor]:
        larger = functional.interpolate(pictures, scale_factor=2, mode="bilinear", align_corners=False)
        maps = self.encoder.stages(127.5 * (larger + 1), self.STAGES)
        return [functional.normalize(stage, dim=1) for stage in maps]


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of reconstructions of (B, 3, H, W) in -1..1."""
    output = decode(vae, encode(vae, pictures).mean).clamp(-1, 1)
    return float(-10 * ((output - pictures) / 2).square().mean((1, 2, 3)).log10().mean())


def heldout_pictures(pack: Pack, device: torch.device) -> Tensor:
    """The drawings of the held-out (concept, style) pairs, each on a fixed background."""
    rows = [index for index, row in enumerate(pack.rows) if row["role"] == "heldout_style"]
    table = torch.tensor(list(backgrounds().values()), dtype=torch.float)
    colour = table[torch.arange(len(rows)) % len(table)]
    return composite(torch.from_numpy(pack.rgba[rows]), colour).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="stop this piece after so long")
    parser.add_argument("--total_minutes", type=float, help="length of the whole schedule (default: --minutes)")
    parser.add_argument("--data", type=Path, default=PACK)
    parser.add_argument("--out", type=Path, default=Path("out/pretrain/vae"))
    parser.add_argument("--init", type=Path, help="start from this vae folder instead of from nothing")
    parser.add_argument("--decoder_only", action="store_true", help="keep the latents as they are")
    parser.add_argument("--resume", action="store_true", help="go on from --out/checkpoint.pt")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=2.5e-3)
    parser.add_argument("--perceptual_weight", type=float, default=0.3, help="0: pixel errors alone")
    arguments = parser.parse_args()

    device = pick_device()
    pack = load_pack(arguments.data)
    drawings = torch.from_numpy(pack.rgba[pack.autoencoded()]).to(device)
    table = torch.tensor(list(backgrounds().values()), dtype=torch.float, device=device)
    heldout = heldout_pictures(pack, device)
    vae = AutoencoderKL.from_pretrained(arguments.init, torch_dtype=torch.float32) if arguments.init else new_vae()
    vae = vae.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if arguments.decoder_only:
        vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)  # the encoder's last convolution does its work; the variance stays fixed
    perceptual = PerceptualLoss(device) if arguments.perceptual_weight else None
    average = MovingAverage(vae, 0.998)
    found = optimizers(vae, arguments.learning_rate)
    budget = Budget(arguments.total_minutes or arguments.minutes, arguments.minutes)
    checkpoint = arguments.out / "checkpoint.pt"
    if arguments.resume and checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        vae.load_state_dict(state["model"])
        average.model.load_state_dict(state["average"])
        average.updates = state["updates"]
        for optimizer, saved in zip(found, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        budget.samples, budget.spent_s = state["samples"], state["spent_s"]

    def save() -> None:
        state = {"model": vae.state_dict(), "average": average.model.state_dict(), "updates": average.updates}
        save_checkpoint(checkpoint, {**state, "optimizers": [o.state_dict() for o in found], **budget.state()})
        sample = random_batch(drawings, table, 1024)
        final = average.model if arguments.decoder_only else standardized(average.model, sample)
        final.to(memory_format=torch.contiguous_format).save_pretrained(arguments.out / "vae")  # pyright: ignore

    total, steps, next_log_s, next_save_s = 0.0, 0, budget.elapsed_s + 30, budget.elapsed_s + 180
    while not budget.over:
        set_learning_rate(found, learning_rate_factor(budget.progress))
        pictures = random_batch(drawings, table, arguments.batch_size)
        with mixed_precision(device):
            posterior = encode(vae, pictures)
            output = decode(vae, posterior.sample())
        loss = reconstruction_loss(output, pictures) + KL_WEIGHT * posterior.mean.float().square().mean()
        if perceptual is not None:
            loss = loss + arguments.perceptual_weight * perceptual(output, pictures)
        loss.backward()
        for optimizer in found:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update(vae)
        budget.samples += arguments.batch_size
        total, steps = total + loss.detach(), steps + 1
        if budget.elapsed_s > next_log_s:
            row = {
                "minutes": round(budget.elapsed_s / 60, 2),
                "samples": budget.samples,
                "loss": round(float(total) / steps, 5),
                "heldout_psnr_db": round(psnr(average.model, heldout), 3),
            }
            append_log(arguments.out / "log.csv", row)
            print(row, f"{budget.samples / budget.elapsed_s:.1f} images/s", flush=True)
            total, steps, next_log_s = 0.0, 0, budget.elapsed_s + 60
        if budget.elapsed_s > next_save_s:
            save()
            next_save_s = budget.elapsed_s + 180
    save()


if __name__ == "__main__":
    main()
