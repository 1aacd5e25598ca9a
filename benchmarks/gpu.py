"""The figures of one GPU, for `benchmarks/results/`: speed at Stable Diffusion 1.5's size.

    python -m benchmarks.gpu --images 128 --slots 4,8,16,32

Builds a model with random weights in SD 1.5's exact shapes (no download), registers it, and runs
`benchmarks.engine` on it in fp16 at 512x512. Then certifies that pixels do not depend on the
batch here. Without a GPU it says so and ends with exit code 2.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks import engine

RESULTS = Path(__file__).parent / "results"
TOKENIZER = Path(__file__).parents[1] / "worker" / "shapes64" / "tokenizer"

REGISTRY = """
[models.sd15-random]
source = "{folder}"
defaults = {{ width = 512, height = 512, steps = 25, guidance_scale = 7.5, sampler = "dpmpp_2m" }}
"""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--slots", default="4,8,16,32")
    given = parser.parse_args(words)
    if not torch.cuda.is_available():
        print("torch sees no GPU here; benchmarks.engine measures the CPU", file=sys.stderr)
        return 2
    name = torch.cuda.get_device_name().lower().replace(" ", "-")
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        make_sd15(Path(folder) / "model")
        registry = Path(folder) / "models.toml"
        registry.write_text(REGISTRY.format(folder=Path(folder) / "model"))
        os.environ["IMAGEMILL_MODELS"] = str(registry)
        arguments = ["--model", "sd15-random", "--images", str(given.images)]
        arguments += ["--slots", given.slots, "--out", str(RESULTS / f"engine-{name}.json")]
        return engine.main(arguments)


def make_sd15(folder: Path) -> None:
    """Save a pipeline in SD 1.5's shapes with random fp16 weights."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.device("cuda"):
        pipeline = StableDiffusionPipeline(
            tokenizer=tokenizer,
            text_encoder=CLIPTextModel(text).half(),
            unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768).half(),
            vae=AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
            ).half(),
            scheduler=DDIMScheduler(
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.012,
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    sys.exit(main())
