"""The figures of one GPU, for `benchmarks/results/`: speed at Stable Diffusion 1.5's size.

    python -m benchmarks.gpu --images 128 --slots 4,8,16,32

Builds a model with random weights in SD 1.5's exact shapes (no download), registers it, and runs
`benchmarks.engine` on it in fp16 at 512x512. Then certifies that pixels do not depend on the
batch here. Without a GPU it says so and ends with exit code 2.

    python -m benchmarks.gpu --device cpu --tiny --images 8 --slots 2 --results tried

tries the whole way with a model of a few channels, anywhere: its figures mean nothing.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks import engine
from imagemill.db.settings import Settings
from imagemill.worker.reproducibility.certificate import certify_model
from imagemill.worker.reproducibility.certificate_report import report

RESULTS = Path(__file__).parent / "results"
TOKENIZER = Path(__file__).parents[1] / "worker" / "shapes64" / "tokenizer"
MODEL = "sd15-random"

REGISTRY = """
[models.{name}]
source = "{folder}"
dtype = "fp16"
[models.{name}.defaults]
width = {side}
height = {side}
steps = {steps}
guidance_scale = 7.5
sampler = "dpmpp_2m"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A model's widths, the side of its pictures in pixels, and the steps of the benchmark.

    `text` is the text encoder's (width, layers, heads); `vae` and `unet` are channels by level.
    """

    text: tuple[int, int, int]
    vae: tuple[int, ...]
    unet: tuple[int, ...]
    groups: int
    side: int
    steps: int


SD15 = Size(
    text=(768, 12, 12),
    vae=(128, 256, 512, 512),
    unet=(320, 640, 1280, 1280),
    groups=32,
    side=512,
    steps=25,
)
TINY = Size(text=(32, 2, 2), vae=(8, 8, 8, 8), unet=(8, 8, 16, 16), groups=4, side=64, steps=3)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--slots", default="4,8,16,32", help="values of B, comma-separated")
    parser.add_argument("--device", default="cuda", help="as the setting `device`")
    parser.add_argument("--tiny", action="store_true", help="a model of a few channels")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the figures")
    given = parser.parse_args(words)
    on_gpu = given.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        print("torch sees no GPU here; benchmarks.engine measures the CPU", file=sys.stderr)
        return 2
    size = TINY if given.tiny else SD15
    name = torch.cuda.get_device_name(given.device) if on_gpu else given.device
    name = name.lower().replace(" ", "-") + ("-tiny" if given.tiny else "")
    given.results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root / MODEL, size, given.device)
        registry = REGISTRY.format(name=MODEL, folder=MODEL, side=size.side, steps=size.steps)
        (root / "models.toml").write_text(registry)
        os.environ |= {
            "IMAGEMILL_MODELS": str(root / "models.toml"),
            "IMAGEMILL_DEVICE": given.device,
        }
        arguments = ["--model", MODEL, "--images", str(given.images), "--slots", given.slots]
        engine.main([*arguments, "--out", str(given.results / f"engine-{name}.json")])
        slots = max(int(b) for b in given.slots.split(","))
        verdicts = certify_model(Settings.load(), MODEL, size=None, slots=slots, rows=4, rounds=2)
    text = report(verdicts)
    (given.results / f"certificate-{name}.md").write_text(text)
    print(text)
    return 0 if all(verdict.holds for _, verdict in verdicts) else 1


def make(folder: Path, size: Size, device: str) -> None:
    """Save a pipeline of Stable Diffusion 1.x's architecture with random fp16 weights."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77)
    width, layers, heads = size.text
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.device(device):
        pipeline = StableDiffusionPipeline(
            tokenizer=tokenizer,
            text_encoder=CLIPTextModel(text).half(),
            unet=UNet2DConditionModel(
                sample_size=size.side // 8,
                cross_attention_dim=width,
                block_out_channels=size.unet,
                norm_num_groups=size.groups,
            ).half(),
            vae=AutoencoderKL(
                block_out_channels=size.vae,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                norm_num_groups=size.groups,
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
