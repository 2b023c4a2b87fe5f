"""What a training run is told: one frozen table, from the command line, from TOML, or both.

The names are those of the training scripts of diffusers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from intaglio.config import StrictModel

METHOD_OPTIONS = (
    "base",
    "num_intervals",
    "input_scales",
    "relative_scales",
    "num_nodes",
    "rank",
    "integer_gemms",
    "activation_bits",
    "gradient_bits",
    "rounding",
    "scale",
    "granularity",
    "separate_gradient",
    "integer_adapter",
    "float_layers",
    "integer_attention",
)
"""Fields that go to the method under their own names; what a method does not know, it refuses."""


DEFAULT_METHOD = {"method": "int8_lora", "rank": 2, "targets": ("all",)}
"""Where none is named: a small pair beside every layer, in integers (docs/decisions/default-method.md)."""


class Recipe(StrictModel):
    # Model
    pretrained_model_name_or_path: str = Field(
        "embedded", description="Hub id, folder or .safetensors file; 'embedded' is the small base that ships"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a Hub id")
    variant: str | None = Field(None, description="variant of the weight files, e.g. fp16")

    # Method
    method: str = Field(
        "int8_lora",
        description="full, lora, qlora, peqa, tuneqdm, scaled_lora, smooth_scales or int8_lora; where none is named, "
        "int8_lora with rank 2 and targets all",
    )
    base: str | None = Field(None, description="format of the frozen weights, e.g. int4, int8, int4_g64, nf4 [int4]")
    num_intervals: int | None = Field(None, description="timestep intervals with scales of their own (tuneqdm) [4]")
    input_scales: bool | None = Field(None, description="scales of input channels too (tuneqdm) [yes]")
    relative_scales: bool | None = Field(
        None, description="train a scale as a share of itself; no: as the official code does (tuneqdm) [yes]"
    )
    num_nodes: int | None = Field(None, description="scale sets between which timesteps lie (smooth_scales) [4]")
    rank: int | None = Field(
        None, description="rank of the low-rank pairs (lora, qlora, int8_lora [16], scaled_lora [8])"
    )
    lora_alpha: float | None = Field(
        None, description="scaling = alpha / rank (lora, qlora, scaled_lora, int8_lora) [rank]"
    )
    activation_bits: int | None = Field(None, description="bits of activations, 2 to 8 (int8_lora) [8]")
    gradient_bits: int | None = Field(None, description="bits of gradients, 2 to 8 (int8_lora) [8]")
    rounding: Literal["nearest", "stochastic"] | None = Field(
        None, description="of what an adapter's gradient sums over tokens (int8_lora) [nearest]"
    )
    scale: Literal["float", "power_of_two"] | None = Field(
        None, description="of activations and gradients (int8_lora) [float]"
    )
    granularity: Literal["token", "tensor"] | None = Field(None, description="what shares a scale (int8_lora) [token]")
    separate_gradient: bool | None = Field(
        None, description="quantize gradients again for the adapter's own (int8_lora) [no]"
    )
    integer_adapter: bool | None = Field(
        None, description="hold the pairs as INT8, with 8-bit moments (int8_lora) [no]"
    )
    float_layers: tuple[str, ...] | None = Field(
        None, description="ends of names of trained layers that compute in float (int8_lora) [none]"
    )
    integer_attention: bool | None = Field(
        None, description="attention's own products of the forward pass in INT8 (int8_lora) [no]"
    )
    integer_gemms: tuple[str, ...] | None = Field(
        None,
        description="products of quantized layers that run in integers: output, grad_input, or none [both on a CPU "
        "where they are compiled, or torch's are exact]",
    )
    targets: tuple[str, ...] | None = Field(
        None, description="ends of names of the layers to train, as in PEFT; all: every one"
    )
    keep_float: tuple[str, ...] | None = Field(None, description="starts of names of layers that are not quantized")
    range_search: Literal["absmax", "percentile", "mse"] = Field("mse", description="how a float base is quantized")

    # Data
    instance_data_dir: Path | None = Field(None, description="folder of your photos")
    instance_prompt: str | None = Field(None, description="caption of photos without one, e.g. 'a photo of sks dog'")
    class_data_dir: Path | None = Field(None, description="folder of class pictures; filled up by the base model")
    class_prompt: str | None = Field(None, description="prompt of the class pictures, e.g. 'a photo of a dog'")
    with_prior_preservation: bool = Field(False, description="train on class pictures too, against forgetting")
    prior_loss_weight: float = Field(1.0, ge=0, description="weight of the class pictures' loss")
    num_class_images: int = Field(100, ge=1, description="class pictures to have")
    dataset_name: str | None = Field(None, description="instead of instance_data_dir: a dataset of the Hub")
    image_column: str | None = Field(None, description="column of the images")
    caption_column: str = Field("text", description="column of the captions")
    repeats: int = Field(1, ge=1, description="how often an epoch shows each photo")
    resolution: int | None = Field(None, ge=8, description="side of the training images in pixels [the model's]")
    center_crop: bool = Field(True, description="crop in the middle, not at random")
    random_flip: bool = Field(False, description="mirror half of the images")
    cache_latents: bool = Field(True, description="encode each photo once")

    # Optimization
    output_dir: Path = Field(Path("out/adapter"), description="where everything is written")
    seed: int = Field(0, ge=0, description="of everything random")
    train_batch_size: int = Field(4, ge=1, description="photos a step and process")
    gradient_accumulation_steps: int = Field(1, ge=1, description="batches an optimizer step")
    max_train_steps: int | None = Field(None, ge=1, description="optimizer steps [400]")
    num_train_epochs: int | None = Field(None, ge=1, description="instead of max_train_steps")
    learning_rate: float | None = Field(None, gt=0, description="[the method's]")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = Field(
        "constant", description="course of the learning rate"
    )
    lr_warmup_steps: int = Field(0, ge=0, description="optimizer steps of warm-up")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="adamw or sgd")
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    adam_weight_decay: float = Field(1e-2, ge=0)
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    snr_gamma: float | None = Field(None, gt=0, description="min-SNR weighting of the loss, e.g. 5.0 (DDPM)")
    weighting_scheme: Literal["none", "sigma_sqrt", "logit_normal", "mode", "cosmap"] | None = Field(
        None, description="how times are drawn and losses weighted (flow matching) [the family's]"
    )
    logit_mean: float | None = Field(None, description="of weighting_scheme logit_normal [0]")
    logit_std: float | None = Field(None, gt=0, description="of weighting_scheme logit_normal [1]")
    mode_scale: float | None = Field(None, description="of weighting_scheme mode [1.29]")
    timestep_shift: str | None = Field(
        None, description="none, static, dynamic or a number: how times lean to noise (flow matching) [the scheduler's]"
    )
    guidance_scale: float | None = Field(
        None, ge=0, description="guidance that the model is told while it trains, where it is told one [the family's]"
    )
    noise_offset: float = Field(0.0, ge=0, description="strength of an offset of the noise per channel")
    ema_decay: float | None = Field(None, gt=0, lt=1, description="save a moving average of what was trained")
    gradient_checkpointing: bool = Field(False, description="less memory, more time")
    unpack_base: bool = Field(False, description="hold frozen weights unpacked: more memory, less time on a CPU")
    mixed_precision: Literal["no", "fp16", "bf16"] = Field("no", description="what the model computes in")

    # Checkpoints, validation, logs
    checkpointing_steps: int | None = Field(None, ge=1, description="optimizer steps between checkpoints")
    checkpoints_total_limit: int | None = Field(None, ge=1, description="older checkpoints are deleted")
    resume_from_checkpoint: str | None = Field(None, description="a checkpoint's folder, or 'latest'")
    validation_prompt: tuple[str, ...] = Field((), description="prompts that are drawn while training")
    validation_steps: int | None = Field(None, ge=1, description="optimizer steps between validations [the end]")
    num_validation_images: int = Field(4, ge=1, description="images a validation prompt")
    trace_step: int | None = Field(None, ge=1, description="record this optimizer step into trace.jsonl")
    report_to: Literal["tensorboard", "none"] = Field("tensorboard", description="where the loss is logged")
    push_to_hub: bool = Field(False, description="upload the output folder when done")
    hub_model_id: str | None = Field(None, description="repository for push_to_hub [name of output_dir]")

    @model_validator(mode="before")
    @classmethod
    def _default_method(cls, values: Any) -> Any:
        if isinstance(values, dict) and "method" not in values:
            return {**DEFAULT_METHOD, **values}
        return values

    @model_validator(mode="after")
    def _together(self) -> Self:
        """What pydantic cannot see field by field; all of it at once."""
        problems = []
        if (self.instance_data_dir is None) == (self.dataset_name is None):
            problems.append("give either instance_data_dir (a folder of photos) or dataset_name")
        if self.with_prior_preservation and not (self.class_data_dir and self.class_prompt):
            problems.append("with_prior_preservation needs class_data_dir and class_prompt")
        if not self.with_prior_preservation and self.class_prompt:
            problems.append("class_prompt is given without with_prior_preservation, which it is for")
        if self.max_train_steps is not None and self.num_train_epochs is not None:
            problems.append("give max_train_steps or num_train_epochs, not both")
        if self.resolution is not None and self.resolution % 8:
            problems.append(f"resolution must be a multiple of 8, not {self.resolution}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def method_options(self) -> dict[str, object]:
        """The options that were given for the method, under the method's own names."""
        given = {name: getattr(self, name) for name in METHOD_OPTIONS} | {"alpha": self.lora_alpha}
        if self.integer_gemms == ("none",):
            given["integer_gemms"] = ()
        return {key: value for key, value in given.items() if value is not None}
