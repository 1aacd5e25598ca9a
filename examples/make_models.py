"""Makes the small models that the examples run on, in the layouts that the Hub has.

    python examples/make_models.py [FOLDER]        # default: examples/models

- `clip/`, `vae/`, `unet/`: shapes64 taken apart, as if each part came from another author
- `embeddings/lucky.bin`: a textual-inversion token, pickled as they used to be shared
- `ddpm/`: an unconditional model of random weights, which draws coloured noise

The embedding is put together from words that the text encoder knows: `<lucky>` has the vectors
of "a large red star". One that was learnt from pictures has the same form.
"""

import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

SHAPES64 = Path(__file__).resolve().parents[1] / "worker" / "shapes64"
TOKEN = "<lucky>"  # noqa: S105  # a word of a prompt, no secret
MEANING = "a large red star"


def main(folder: Path) -> None:
    """Make every model that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.WARNING)  # what libraries lack here, these models do not need
    try:
        take_apart(folder)
        embedding(folder / "embeddings" / "lucky.bin")
        unconditional(folder / "ddpm")
    finally:
        logging.disable(logging.NOTSET)
    print(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")


def take_apart(folder: Path) -> None:
    """shapes64 as three repositories: text, autoencoder and denoiser."""
    for source, target in {
        "tokenizer": "clip/tokenizer",
        "text_encoder": "clip/text_encoder",
        "vae": "vae",
        "unet": "unet/unet",
    }.items():
        shutil.copytree(SHAPES64 / source, folder / target, dirs_exist_ok=True)


def embedding(file: Path) -> None:
    """A token of one vector for each word of `MEANING`, in the file that trainers write."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(SHAPES64 / "tokenizer")
    encoder = transformers.CLIPTextModel.from_pretrained(SHAPES64 / "text_encoder")
    ids = tokenizer(MEANING, add_special_tokens=False, return_tensors="pt").input_ids[0]
    vectors = encoder.get_input_embeddings()(ids).detach().float()
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({TOKEN: vectors}, file)


def unconditional(folder: Path) -> None:
    """A `UNet2DModel` in the layout of `google/ddpm-cat-256`, with weights drawn at random."""
    torch.manual_seed(0)
    unet: Any = diffusers.UNet2DModel(
        sample_size=32,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler()).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("models"))
