"""Small models of the families that the engine runs itself, with random weights.

Whole ones are saved as their pipelines save themselves; others are another model's with a part
of their own.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from imagemill.db.models.registry import BUILT_IN, load_registry
from imagemill.db.settings import Settings
from imagemill.worker.models.model import Model
from tools.small_models import parts


def save_sdxl(folder: Path) -> Path:
    """Two text encoders, size conditioning."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    shared = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    first = transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=48, projection_dim=32, **shared
    )
    second = transformers.CLIPTextConfig(
        hidden_size=48, intermediate_size=64, projection_dim=24, hidden_act="gelu", **shared
    )
    unet = _xl_unet(reads=80, numbers=6, transformer_layers_per_block=(1, 2))
    vae = diffusers.AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    second_tokenizer = _tokenizer()
    # As SDXL's: "!" pads the second encoder, the end mark the first.
    second_tokenizer.pad_token = "!"
    diffusers.StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=transformers.CLIPTextModel(first),
        text_encoder_2=transformers.CLIPTextModelWithProjection(second),
        tokenizer=tokenizer,
        tokenizer_2=second_tokenizer,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def save_refiner(folder: Path) -> Path:
    """The U-Net that goes on where `save_sdxl`'s leaves off, alone.

    It reads the second text encoder, and a score instead of the size once more.
    """
    torch.manual_seed(1)
    _xl_unet(reads=48, numbers=5).save_pretrained(folder)
    return folder


def _xl_unet(*, reads: int, numbers: int, **config: Any) -> Any:
    """A U-Net that reads texts of that width, and so many numbers about the picture."""
    return diffusers.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + numbers * 8,
        cross_attention_dim=reads,
        norm_num_groups=8,
        **config,
    )


def save_ddpm(folder: Path, *, flat: bool = False, channels: int = 3) -> Path:
    """Unconditional, in pixels; `flat` as the first such models lie on the Hub."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler()).save_pretrained(folder)
    if flat:
        for part in ("unet", "scheduler"):
            for file in (folder / part).iterdir():
                file.rename(folder / file.name)
            (folder / part).rmdir()
    return folder


def stable_diffusion() -> Any:
    """A whole pipeline of Stable Diffusion's kind, for 64 x 64 pixels."""
    torch.manual_seed(5)
    return parts.stable_diffusion(diffusers.StableDiffusionPipeline, diffusers.DDIMScheduler)


def distilled(model: Model) -> Model:
    """The model with an input for the guidance scale, as an LCM has it, its weights random."""
    torch.manual_seed(0)
    unet = _unet(model, time_cond_proj_dim=33)
    unet.load_state_dict(model.components["unet"].state_dict(), strict=False)
    return _with_unet(model, unet, guided=False)


def inpainting(model: Model) -> Model:
    """The model with the nine input channels of an inpainting U-Net, the new ones random."""
    torch.manual_seed(0)
    unet = _unet(model, in_channels=9)
    weights = model.components["unet"].state_dict()
    weights["conv_in.weight"] = torch.cat(
        [weights["conv_in.weight"], unet.conv_in.weight[:, 4:].detach()], dim=1
    )
    unet.load_state_dict(weights)
    return _with_unet(model, unet, inpainting=True)


def narrow(model: Model) -> Model:
    """The model with a U-Net of eight channels and random weights: quick to compile."""
    torch.manual_seed(0)
    unet = _unet(
        model,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=2,
    )
    return _with_unet(model, unet.requires_grad_(False))


def _unet(model: Model, **changes: Any) -> Any:
    config = dict(model.components["unet"].config) | changes
    unet = diffusers.UNet2DConditionModel.from_config(config).eval()
    return unet.to(model.device, model.dtype)


def _with_unet(model: Model, unet: Any, **facts: Any) -> Model:
    components = dict(model.components) | {"unet": unet}
    return replace(model, components=components, facts=replace(model.facts, **facts))


def _tokenizer() -> transformers.CLIPTokenizer:
    source = load_registry(Settings.load()).find(BUILT_IN).source
    assert source is not None
    return transformers.CLIPTokenizer.from_pretrained(Path(source) / "tokenizer")
