"""Flow matching (Lipman et al. 2023; Esser et al. 2024): `x_t = (1 - s) x_0 + s e`, target `e - x_0`; t is sigma s.

Times are drawn as diffusers' training scripts draw them: a density of u, an index floor(T u) into T descending noise
levels, and the shift of the levels, which is applied here and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from intaglio.diffusion.objective import ObjectiveOptions, WeightingScheme
from intaglio.diffusion.time import Scaled, TimeConvention, column
from intaglio.errors import UserError

SHIFTS = ("none", "static", "dynamic")


@dataclass(frozen=True, kw_only=True)
class Flow:
    name: ClassVar[str] = "flow"

    convention: TimeConvention = field(default_factory=Scaled)
    shift: float = 1.0
    """k of `s' = k s / (1 + (k - 1) s)`."""
    weighting_scheme: WeightingScheme = "none"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    preconditioned: bool = False
    """The loss is that of x_0 = x_t - s v, as Stable Diffusion 3's script has it: the weight is s^2 times as large."""
    num_steps: int = 1000

    def draw(self, generator: torch.Generator) -> float:
        return float(self.times(torch.rand((), generator=generator)))

    def times(self, u: Tensor) -> Tensor:
        index = (self._density(u.double()) * self.num_steps).floor().clamp(0, self.num_steps - 1)
        return shifted((self.num_steps - index) / self.num_steps, self.shift)

    def _density(self, u: Tensor) -> Tensor:
        """The distribution of `compute_density_for_timestep_sampling`, by its quantiles; mode is decreasing in u."""
        if self.weighting_scheme == "logit_normal":
            return torch.sigmoid(self.logit_mean + self.logit_std * torch.special.ndtri(u))
        if self.weighting_scheme == "mode":
            return 1 - u - self.mode_scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)
        return u

    def corrupt(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        sigma = column(t.float(), x0)
        return ((1 - sigma) * x0 + sigma * noise).to(x0.dtype)

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x0

    def weight(self, t: Tensor) -> Tensor:
        if self.weighting_scheme == "sigma_sqrt":
            weight = t**-2.0
        elif self.weighting_scheme == "cosmap":
            weight = 2 / (math.pi * (1 - 2 * t + 2 * t**2))
        else:
            weight = torch.ones_like(t)
        return (weight * t**2 if self.preconditioned else weight).float()

    def model_time(self, t: Tensor) -> Tensor:
        """float32 (B,)."""
        return self.convention.to_model(t)


def shifted(sigma: Tensor, factor: float) -> Tensor:
    return factor * sigma / (1 + (factor - 1) * sigma)


def shift_factor(config: Any, wanted: str | float | None, image_tokens: int) -> float:
    """The factor of `shifted` that a scheduler's configuration and a run ask for.

    Dynamic shifts grow with the image: `exp(mu)` where mu is linear in the tokens of an image (FLUX), the factor mu
    itself where the scheduler says "linear".

    Args:
        wanted: "none", "static", "dynamic", a number, or None for what the scheduler samples with.
        image_tokens: of one image in the transformer.

    Raises:
        UserError: another word, or a factor that is not positive.
    """
    if wanted is None:
        wanted = "dynamic" if config.get("use_dynamic_shifting") else "static"
    if wanted == "none":
        return 1.0
    if wanted == "static":
        return float(config.get("shift") or config.get("flow_shift") or 1.0)
    if wanted == "dynamic":
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        base, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        mu = base + (image_tokens - low) * (most - base) / (high - low)
        return mu if config.get("time_shift_type") == "linear" else math.exp(mu)
    try:
        factor = float(wanted)
    except ValueError:
        factor = math.nan
    if not factor > 0:
        raise UserError(f"timestep_shift must be {', '.join(SHIFTS)} or a positive number, not {wanted!r}")
    return factor


def flow_objective(
    scheduler: Any,
    options: ObjectiveOptions,
    *,
    convention: TimeConvention,
    image_tokens: int,
    weighting_scheme: WeightingScheme = "none",
    preconditioned: bool = False,
) -> Flow:
    """A flow with the options of a run; what it leaves open is the family's, and the scheduler's.

    Raises:
        UserError: a scheduler of another kind, or an option for DDPM alone.
    """
    config = scheduler.config
    is_flow = config.get("prediction_type") == "flow_prediction" or not hasattr(scheduler, "alphas_cumprod")
    if not is_flow or not hasattr(scheduler, "sigmas"):
        raise UserError(
            f"{type(scheduler).__name__} is no flow-matching scheduler, and this family is trained with one"
        )
    if options.snr_gamma is not None:
        raise UserError("snr_gamma is for DDPM objectives; under flow matching give weighting_scheme")
    return Flow(
        convention=convention,
        shift=shift_factor(config, options.timestep_shift, image_tokens),
        weighting_scheme=options.weighting_scheme or weighting_scheme,
        logit_mean=0.0 if options.logit_mean is None else options.logit_mean,
        logit_std=1.0 if options.logit_std is None else options.logit_std,
        mode_scale=1.29 if options.mode_scale is None else options.mode_scale,
        preconditioned=preconditioned,
        num_steps=config.get("num_train_timesteps", 1000),
    )
