"""What a training run is told: one frozen table in sections, from the command line, from TOML, or both.

The names are those of the training scripts of diffusers. A name is unique over all sections, so each is also a flag and
a key of its own: `learning_rate = 1e-3` and `[optimizer] learning_rate = 1e-3` say the same. A section given a plain
string takes it for its first field: `method = "qlora"` is `[method] name = "qlora"`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from intaglio.config import StrictModel
from intaglio.errors import UserError, did_you_mean, lines_of
from intaglio.methods.base import Method, Names, compute_of
from intaglio.methods.registry import METHODS, build_method, option_fields

FREE: dict[str, Any] = {"free": True}
"""Marks a field that a resumed run may be told anew without becoming another run."""


class Section(StrictModel):
    free: ClassVar[bool] = False
    """Whether a resumed run may change all of it."""


class ModelSection(Section):
    pretrained_model_name_or_path: str = Field(
        "embedded", description="Hub id, folder or .safetensors file; 'embedded' is the small base that ships"
    )
    revision: str | None = Field(None, description="branch, tag or commit of a Hub id")
    variant: str | None = Field(None, description="variant of the weight files, e.g. fp16")


class MethodSection(Section):
    name: str | None = Field(
        None, description="what is trained [int8_lora where INT8 kernels run, qlora on other devices]"
    )
    targets: Names | None = Field(
        None, description="ends of names of the layers to train, as in PEFT; all: every one [the method's]"
    )
    options: dict[str, Any] = Field({}, description="the method's own options, under their own names")

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        """Options lie beside the name in TOML, and in a table of their own here."""
        if isinstance(values, Method):
            return {"name": values.name, "options": {k: getattr(values, k) for k in option_fields(type(values))}}
        if not isinstance(values, dict):
            return values
        own = {k: v for k, v in values.items() if k in cls.model_fields and k != "options"}
        options = {**values.get("options", {}), **{k: v for k, v in values.items() if k not in cls.model_fields}}
        if "lora_alpha" in options:
            options["alpha"] = options.pop("lora_alpha")
        return {**own, "options": options}

    @model_validator(mode="after")
    def _known(self) -> Self:
        """A method that is named is checked at once; without a name the device decides, when the run is planned."""
        if self.name is not None:
            try:
                build_method(self.name, self.options)
            except UserError as error:
                raise ValueError("; ".join(lines_of(error))) from None
        else:
            known = {option for cls in METHODS.values() for option in option_fields(cls)}
            unknown = [o for o in self.options if o not in known]
            if unknown:
                raise ValueError("; ".join(f"no method has an option {o!r}{did_you_mean(o, known)}" for o in unknown))
        return self


class BaseSection(Section):
    format: str | None = Field(
        None,
        description="format of the frozen weights, e.g. int4, int8, int4_g64, nf4 [the model's, or int4]",
        json_schema_extra={"flag": "base"},
    )
    keep_float: Names | None = Field(None, description="starts of names of layers that are not quantized")
    range_search: Literal["absmax", "percentile", "mse"] = Field("mse", description="how a float base is quantized")


class DeviceSection(Section):
    compute: Literal["auto", "integer", "float"] = Field(
        "auto", description="arithmetic of a quantized base; auto: the fastest exact one of this device"
    )
    mixed_precision: Literal["no", "fp16", "bf16"] = Field("no", description="what the rest of the model computes in")
    gradient_checkpointing: bool = Field(False, description="less memory, more time", json_schema_extra=FREE)
    unpack_base: bool = Field(
        False, description="hold frozen weights unpacked, computed in float: more memory", json_schema_extra=FREE
    )


class DataSection(Section):
    instance_data_dir: Path | None = Field(None, description="folder of your photos")
    instance_prompt: str | None = Field(None, description="caption of photos without one, e.g. 'a photo of sks dog'")
    class_data_dir: Path | None = Field(None, description="folder of class images; filled up by the base model")
    class_prompt: str | None = Field(None, description="prompt of the class images, e.g. 'a photo of a dog'")
    with_prior_preservation: bool = Field(False, description="train on class images too, against forgetting")
    prior_loss_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="weight of the class images' loss")
    num_class_images: int = Field(100, ge=1, le=100_000, description="class images to have")
    dataset_name: str | None = Field(None, description="instead of instance_data_dir: a dataset of the Hub")
    image_column: str | None = Field(None, description="column of the images")
    caption_column: str = Field("text", description="column of the captions")
    repeats: int = Field(1, ge=1, le=100_000, description="how often an epoch shows each photo")
    resolution: int | None = Field(
        None, ge=8, le=16384, multiple_of=8, description="side of the training images in pixels [the model's]"
    )
    center_crop: bool = Field(True, description="crop in the middle, not at random")
    random_flip: bool = Field(False, description="mirror half of the images")
    cache_latents: bool = Field(True, description="encode each photo once", json_schema_extra=FREE)

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
        if problems:
            raise ValueError("; ".join(problems))
        return self


class StepsSection(Section):
    max_train_steps: int | None = Field(
        None, ge=1, le=10**9, description="optimizer steps [400]", json_schema_extra=FREE
    )
    num_train_epochs: int | None = Field(
        None, ge=1, le=10**9, description="instead of max_train_steps", json_schema_extra=FREE
    )
    train_batch_size: int = Field(4, ge=1, le=10**5, description="photos a step and process")
    gradient_accumulation_steps: int = Field(1, ge=1, le=10**5, description="batches an optimizer step")
    seed: int = Field(0, ge=0, lt=2**63, description="of everything random")
    snr_gamma: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="min-SNR weighting of the loss, e.g. 5.0 (DDPM)"
    )
    weighting_scheme: Literal["none", "sigma_sqrt", "logit_normal", "mode", "cosmap"] | None = Field(
        None, description="how times are drawn and losses weighted (flow matching) [the family's]"
    )
    logit_mean: float | None = Field(
        None, allow_inf_nan=False, description="of weighting_scheme logit_normal (flow matching) [0]"
    )
    logit_std: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="of weighting_scheme logit_normal (flow matching) [1]"
    )
    mode_scale: float | None = Field(
        None, allow_inf_nan=False, description="of weighting_scheme mode (flow matching) [1.29]"
    )
    timestep_shift: str | None = Field(
        None, description="none, static, dynamic or a number: how times lean to noise (flow matching) [the scheduler's]"
    )
    guidance_scale: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="what a model that is told its guidance is told [the family's]"
    )
    noise_offset: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="strength of an offset of the noise per channel"
    )
    ema_decay: float | None = Field(None, gt=0, lt=1, description="save a moving average of what was trained")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.max_train_steps is not None and self.num_train_epochs is not None:
            raise ValueError("give max_train_steps or num_train_epochs, not both")
        return self


class OptimizerSection(Section):
    name: Literal["adamw", "sgd"] = Field("adamw", description="adamw or sgd", json_schema_extra={"flag": "optimizer"})
    learning_rate: float | None = Field(None, gt=0, le=1e4, allow_inf_nan=False, description="[the method's]")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = Field(
        "constant", description="course of the learning rate"
    )
    lr_warmup_steps: int = Field(0, ge=0, le=10**9, description="optimizer steps of warm-up")
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0, allow_inf_nan=False)
    adam_weight_decay: float = Field(1e-2, ge=0, allow_inf_nan=False)
    max_grad_norm: float = Field(1.0, gt=0, allow_inf_nan=False, description="gradients are clipped to this norm")


class ValidationSection(Section):
    free = True

    validation_prompt: Names = Field((), description="prompts whose images are drawn while training")
    validation_steps: int | None = Field(None, ge=1, description="optimizer steps between validations [the end]")
    num_validation_images: int = Field(4, ge=1, le=10_000, description="images a validation prompt")


class OutputSection(Section):
    free = True

    output_dir: Path = Field(Path("out/adapter"), description="where everything is written")
    checkpointing_steps: int | None = Field(None, ge=1, description="optimizer steps between checkpoints")
    checkpoints_total_limit: int | None = Field(None, ge=1, description="older checkpoints are deleted")
    resume_from_checkpoint: str | None = Field(None, description="a checkpoint's folder, or 'latest'")
    trace_step: int | None = Field(None, ge=1, description="record this optimizer step into trace.jsonl")
    report_to: Literal["tensorboard", "none"] = Field("tensorboard", description="where the loss is logged")
    push_to_hub: bool = Field(False, description="upload the output folder when done")
    hub_model_id: str | None = Field(None, description="repository for push_to_hub [name of output_dir]")


def _section() -> Any:
    """An empty table, validated as any other: so that a section says what it misses."""
    return Field(default_factory=dict)


class Recipe(StrictModel):
    model: ModelSection = _section()
    method: MethodSection = _section()
    base: BaseSection = _section()
    device: DeviceSection = _section()
    data: DataSection = _section()
    steps: StepsSection = _section()
    optimizer: OptimizerSection = _section()
    validation: ValidationSection = _section()
    output: OutputSection = _section()

    @model_validator(mode="before")
    @classmethod
    def _into_sections(cls, values: Any) -> Any:
        return into_sections(values) if isinstance(values, dict) else values

    @classmethod
    def known_keys(cls) -> set[str]:
        """What may stand at the top of a file: sections and flat names."""
        return {*cls.model_fields, *flat_names(), *method_option_names()}

    def changed(self, **flat: Any) -> Recipe:
        """A copy with other values, by their flat names."""
        return Recipe.model_validate(merged(self.model_dump(exclude_unset=True), into_sections(flat)))

    def differences(self, before: dict[str, Any]) -> list[str]:
        """What a run that was told `before` (`model_dump` of its recipe) would have to be told anew; one line each."""
        now = self.model_dump(mode="json")
        lines = []
        for name, section in sections().items():
            if section.free:
                continue
            then = before.get(name, {})
            for key, value in now[name].items():
                extra = section.model_fields[key].json_schema_extra
                if not (isinstance(extra, dict) and extra.get("free")) and value != then.get(key):
                    lines.append(f"{key}: was {then.get(key)!r}, now {value!r}")
        return lines


def sections() -> dict[str, type[Section]]:
    """The sections by name."""
    return {name: field.annotation for name, field in Recipe.model_fields.items()}  # type: ignore[misc]


def flag_of(name: str, field: Any) -> str:
    """The flat name of a section's field."""
    extra = field.json_schema_extra
    return extra.get("flag", name) if isinstance(extra, dict) else name


def flat_names() -> dict[str, tuple[str, str]]:
    """Flat name -> (section, field), without the method's own options."""
    found = {}
    for section, model in sections().items():
        for name, field in model.model_fields.items():
            if (section, name) not in (("method", "name"), ("method", "options")):
                found[flag_of(name, field)] = (section, name)
    return found


def method_option_names() -> set[str]:
    return {name for cls in METHODS.values() for name in option_fields(cls)} | {"lora_alpha"}


def into_sections(values: dict[str, Any]) -> dict[str, Any]:
    """Put flat keys where they belong; sections, and keys that nothing knows, stay."""
    values = {key: value for key, value in values.items() if value is not None}
    if "integer_gemms" in values:  # of version 0.1.0
        values["compute"] = compute_of(values.pop("integer_gemms"))
    flat, options = flat_names(), method_option_names()
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name in Recipe.model_fields and isinstance(value, (dict, StrictModel, Method)):
            part = value.model_dump(exclude_unset=True) if isinstance(value, StrictModel) else value
            result = merged(result, {name: part})
        elif name in Recipe.model_fields and isinstance(value, str):
            result = merged(result, {name: {next(iter(sections()[name].model_fields)): value}})
        elif name in flat:
            section, field = flat[name]
            result = merged(result, {section: {field: value}})
        elif name in options:
            result = merged(result, {"method": {name: value}})
        else:
            result[key] = value
    return result


def merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """`second` over `first`, section by section. A method that is named anew brings no options of another."""
    result = dict(first)
    for key, value in second.items():
        before = result.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            if key == "method" and value.get("name") not in (None, before.get("name")) and before.get("name"):
                before = {k: v for k, v in before.items() if k == "targets"}
            result[key] = {**before, **value}
        else:
            result[key] = value
    return result
