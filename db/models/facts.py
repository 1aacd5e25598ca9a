"""The facts about a model that planning needs, read from its configuration without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from imagemill.db.errors import ModelError, first_line
from imagemill.db.models.components import component_folders, pipeline_options
from imagemill.db.models.pipeline_inputs import (
    PIPELINE_INPUTS,
    PROMPT_ONLY,
    PipelineInputs,
    changes_the_denoiser,
)
from imagemill.db.models.registry import ModelEntry
from imagemill.db.models.weights import read_config

_PIPELINE_MULTIPLE = 8
_CLIP_WINDOW = 77
_CLIP_LAYERS = 12
_LARGE_SIDE = 1024
_PACKED = 4
_MOST_LEVELS = 16
_AUTOENCODERS = ("vae", "movq", "vqgan", "vqvae")
_DENOISERS = ("transformer", "unet", "decoder")
_TOKENIZER, _TEXT_ENCODER = "tokenizer", "text_encoder"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """A model's shapes.

    - `latent_scale`: pixels for each latent cell, in each direction.
    - `size_multiple`: width and height must be multiples of this.
    - `default_size`: the (width, height) that it was trained with.
    - `window`: the tokens that its text encoder reads, begin and end included; None if it takes no
      text or the pipeline alone knows. A generic model that has one reads its prompts with CLIP
      alone, and takes weights and several windows.
    - `tokenizer`: the folder of its tokenizer's files.
    - `text_layers`: the layers of its CLIP text encoder, of several the fewest; None without one.
    - `guided`: whether classifier-free guidance has an effect.
    - `refined`: whether it has a second U-Net for the end of the schedule.
    - `sampler_class`: the diffusers class of its own sampler; empty if it is not known.
    - `sampler_config`: the configuration of its own sampler.
    - `pipeline_class`: the diffusers class of a generic model; empty for all others.
    - `inputs`: what a generic model's pipelines take beside a prompt.
    - `distilled`: whether there is no classifier-free guidance, because guidance is an input of the
      denoiser or part of its weights; no negative prompt counts.
    """

    latent_scale: int
    size_multiple: int
    default_size: tuple[int, int]
    latent_channels: int
    window: int | None
    tokenizer: Path | None
    text_layers: int | None
    guided: bool
    prediction_type: str
    inpainting: bool
    refined: bool = False
    sampler_class: str = ""
    sampler_config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    pipeline_class: str = ""
    inputs: PipelineInputs = PROMPT_ONLY
    distilled: bool = False

    def pipeline_for(self, *, init_image: bool, mask: bool, control_image: bool) -> str:
        """The class of the pipeline that draws an image with these pictures."""
        controlled = control_image and not self.inputs.own_control
        name = self.inputs.class_for(picture=init_image, mask=mask, controlled=controlled)
        return name or self.pipeline_class


def model_facts(entry: ModelEntry) -> ModelFacts:
    """The facts of a model whose files are on this machine.

    Raises `ModelError` if the files are missing, if their configuration makes no sense, or if no
    engine can draw with the pipeline.
    """
    try:
        return _facts(entry)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(f"model {entry.name}: its configuration makes no sense ({said})") from None


def _facts(entry: ModelEntry) -> ModelFacts:
    if entry.kind == "generic":
        return _pipeline_facts(entry)
    folders = {name: folder for name, (folder, _) in component_folders(entry).items()}
    unet = read_config(folders["unet"]) if "unet" in folders else {}
    vae = read_config(folders["vae"]) if "vae" in folders else {}
    levels = len(vae.get("block_out_channels", ())) or 1
    if levels > _MOST_LEVELS:
        raise ModelError(f"model {entry.name}: an autoencoder of {levels:,} levels")
    scale = 2 ** (levels - 1)
    size = unet.get("sample_size") or 64
    width, height = (size, size) if isinstance(size, int) else (int(size[1]), int(size[0]))
    tokenizer = folders.get("tokenizer")
    scheduler = entry.scheduler or (
        read_config(folders["scheduler"], "scheduler_config.json") if "scheduler" in folders else {}
    )
    in_channels = int(unet.get("in_channels", 4))
    latent_channels = int(vae.get("latent_channels", in_channels))
    return ModelFacts(
        latent_scale=scale,
        size_multiple=max(scale, _PIPELINE_MULTIPLE if vae else scale),
        default_size=(width * scale, height * scale),
        latent_channels=latent_channels,
        window=None if tokenizer is None else _window(tokenizer, folders.get("text_encoder")),
        tokenizer=tokenizer,
        text_layers=_text_layers(folders),
        guided=tokenizer is not None and unet.get("time_cond_proj_dim") is None,
        prediction_type=str(scheduler.get("prediction_type", "epsilon")),
        inpainting=in_channels == 2 * latent_channels + 1,
        refined="refiner" in folders,
        sampler_class=_class_of(scheduler),
        sampler_config=scheduler,
    )


def _window(tokenizer: Path, text_encoder: Path | None) -> int:
    """The tokens that the text encoder reads: the tokenizer's limit, else its positions."""
    limit = read_config(tokenizer, "tokenizer_config.json").get("model_max_length")
    # A tokenizer without a limit has the value 1e30.
    if isinstance(limit, int) and 0 < limit < 100_000:
        return limit
    config = read_config(text_encoder) if text_encoder is not None else {}
    config = config.get("text_config", config)
    return int(config.get("max_position_embeddings", _CLIP_WINDOW))


def _text_layers(folders: Mapping[str, Path]) -> int | None:
    found = []
    for name, folder in folders.items():
        if name.startswith(_TEXT_ENCODER):
            config = read_config(folder)
            config = config.get("text_config", config)
            if str(config.get("model_type")).startswith("clip"):
                found.append(int(config.get("num_hidden_layers", _CLIP_LAYERS)))
    return min(found, default=None)


def _pipeline_facts(entry: ModelEntry) -> ModelFacts:
    """The facts of any diffusers pipeline, as far as the configurations of its components say.

    There is no `window`, unless CLIP alone reads the prompts, because only the pipeline knows where
    it cuts them. `size_multiple` includes the denoiser's patches: pipelines round other sizes, and
    then the picture would not have the size that was asked for.
    """
    folders = {name: folder for name, (folder, _) in component_folders(entry).items()}
    configs = {name: read_config(folder) for name, folder in folders.items()}
    vae = next((configs[name] for name in _AUTOENCODERS if name in configs), {})
    denoiser = next((configs[name] for name in _DENOISERS if name in configs), {})
    scale = _autoencoder_scale(vae)
    channels = int(vae.get("latent_channels", vae.get("z_dim", 4)))
    in_channels = int(denoiser.get("in_channels") or channels)
    patch = denoiser.get("patch_size") or 1
    if isinstance(patch, list):
        patch = max(patch)
    # Some pipelines pack latents into patches of 2 x 2 themselves.
    packed = in_channels == _PACKED * channels or "all_patch_size" in denoiser
    multiple = max(_PIPELINE_MULTIPLE, scale * max(int(patch), 2 if packed else 1))
    size = denoiser.get("sample_size")
    side = size * scale if isinstance(size, int) else _LARGE_SIDE
    side = max(multiple, side // multiple * multiple)
    options, scheduler = pipeline_options(entry), _scheduler_config(entry)
    pipeline_class = str(options.get("_class_name", ""))
    if changes_the_denoiser(pipeline_class):
        raise ModelError(
            f"model {entry.name}: {pipeline_class} changes the denoiser during a call, and images "
            "under way share one denoiser; use the pipeline that it was made from"
        )
    inputs = PIPELINE_INPUTS.get(pipeline_class, PROMPT_ONLY)
    clip = inputs.clip_prompts and _is_clip(configs)
    return ModelFacts(
        latent_scale=scale,
        size_multiple=multiple,
        default_size=(side, side),
        latent_channels=channels,
        window=_window(folders[_TOKENIZER], folders[_TEXT_ENCODER]) if clip else None,
        tokenizer=folders[_TOKENIZER] if clip else None,
        text_layers=_text_layers(folders),
        guided=True,
        prediction_type=_prediction(scheduler),
        inpainting=False,
        sampler_class=_class_of(scheduler),
        sampler_config=scheduler,
        pipeline_class=pipeline_class,
        inputs=inputs,
        distilled=bool(
            denoiser.get("guidance_embeds")
            or denoiser.get("time_cond_proj_dim") is not None
            or options.get("is_distilled")
        ),
    )


def _is_clip(configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether all of a pipeline's text encoders are there, and are CLIP's."""
    encoders = [name for name in configs if name.startswith(_TEXT_ENCODER)]
    return {_TOKENIZER, _TEXT_ENCODER} <= configs.keys() and all(
        str(configs[name].get("model_type")).startswith("clip") for name in encoders
    )


def _scheduler_config(entry: ModelEntry) -> Mapping[str, Any]:
    if entry.scheduler is not None:
        return entry.scheduler
    folder, _ = component_folders(entry).get("scheduler", (None, None))
    return {} if folder is None else read_config(folder, "scheduler_config.json")


def _prediction(scheduler: Mapping[str, Any]) -> str:
    if _class_of(scheduler).startswith("FlowMatch"):
        return "flow_prediction"
    return str(scheduler.get("prediction_type", "epsilon"))


def _class_of(scheduler: Mapping[str, Any]) -> str:
    return str(scheduler.get("class", scheduler.get("_class_name", "")))


def _autoencoder_scale(config: Mapping[str, Any]) -> int:
    """Pixels for each latent cell: every level of an autoencoder but one halves the picture."""
    for name in ("block_out_channels", "encoder_block_out_channels"):
        if config.get(name):
            return int(2 ** (len(config[name]) - 1))
    if config.get("temperal_downsample"):  # so spelt in diffusers
        return int(2 ** len(config["temperal_downsample"]))
    return 1
