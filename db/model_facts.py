"""What planning needs to know of a model, read from its configuration files without torch."""

from dataclasses import dataclass
from pathlib import Path

from db.registry import ModelEntry, component_folders, read_config

_PIPELINE_MULTIPLE = 8
_CLIP_WINDOW = 77


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """A model's shapes.

    `latent_scale` is pixels per latent cell, `size_multiple` what width and height must be a
    multiple of, `default_size` the (width, height) it was trained at, `window` the tokens of its
    text encoder (begin and end included; None: it takes no text), `tokenizer` the folder of its
    tokenizer files, `guided` whether classifier-free guidance means anything to it.
    """

    latent_scale: int
    size_multiple: int
    default_size: tuple[int, int]
    latent_channels: int
    window: int | None
    tokenizer: Path | None
    guided: bool
    prediction_type: str
    inpainting: bool


def model_facts(entry: ModelEntry) -> ModelFacts:
    """The facts of a model whose files are here; a `ModelError` if they are not."""
    folders = {name: folder for name, (folder, _) in component_folders(entry).items()}
    unet = read_config(folders["unet"]) if "unet" in folders else {}
    vae = read_config(folders["vae"]) if "vae" in folders else {}
    levels = len(vae.get("block_out_channels", ())) or 1
    scale = 2 ** (levels - 1)
    size = unet.get("sample_size") or 64
    width, height = (size, size) if isinstance(size, int) else (size[1], size[0])
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
        guided=tokenizer is not None and unet.get("time_cond_proj_dim") is None,
        prediction_type=str(scheduler.get("prediction_type", "epsilon")),
        inpainting=in_channels == 2 * latent_channels + 1,
    )


def _window(tokenizer: Path, text_encoder: Path | None) -> int:
    """Tokens that the text encoder sees: the tokenizer's limit, else the encoder's positions."""
    limit = read_config(tokenizer, "tokenizer_config.json").get("model_max_length")
    # A tokenizer without a limit writes 1e30.
    if isinstance(limit, int) and 0 < limit < 100_000:
        return limit
    config = read_config(text_encoder) if text_encoder is not None else {}
    config = config.get("text_config", config)
    return int(config.get("max_position_embeddings", _CLIP_WINDOW))
