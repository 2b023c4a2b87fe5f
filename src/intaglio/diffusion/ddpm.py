"""The DDPM objective of a pipeline's scheduler: which of the three predictions, on which noise schedule."""

from __future__ import annotations

from typing import Any

from intaglio.diffusion.discrete import Discrete, discrete_schedule
from intaglio.diffusion.epsilon import Epsilon
from intaglio.diffusion.objective import ObjectiveOptions
from intaglio.diffusion.sample import Sample
from intaglio.diffusion.v import V
from intaglio.errors import UserError

PREDICTIONS: dict[str, type[Discrete]] = {kind.name: kind for kind in (Epsilon, V, Sample)}
FLOW_ALONE = ("weighting_scheme", "logit_mean", "logit_std", "mode_scale", "timestep_shift")


def ddpm_objective(scheduler: Any, options: ObjectiveOptions) -> Discrete:
    """
    Raises:
        UserError: a scheduler of another kind, or an option of flow matching.
    """
    kind = getattr(scheduler.config, "prediction_type", None)
    if kind not in PREDICTIONS or not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(
            f"{type(scheduler).__name__} (prediction_type {kind!r}) does not fit this model; expected a scheduler with "
            f"{', '.join(PREDICTIONS)} prediction on DDPM's steps"
        )
    given = [name for name in FLOW_ALONE if getattr(options, name) is not None]
    if given:
        raise UserError(f"{', '.join(given)}: for flow matching alone; this model predicts {kind}, and takes snr_gamma")
    return PREDICTIONS[kind](discrete_schedule(scheduler), options.snr_gamma)
