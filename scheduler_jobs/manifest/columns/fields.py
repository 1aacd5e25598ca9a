"""The one table of what a column can fill: its names, its meaning, and its flag.

The reading of columns, the flags of `run`, `plan` and `submit`, and `docs/columns.md` come from
here. The types and bounds are those of `parameters.Parameters`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

PROMPT = "prompt"
KEY = "id"
SIZE = "size"
SAMPLER = "sampler"
SAMPLER_INDEX = "sampler_index"
SCHEDULE = "schedule"
"""The noise schedule where a tool names it apart from the sampler: `karras`."""
BATCH_SIZE = "batch_size"
BATCHES = "n_iter"


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """The flag that sets a field for rows that do not: `--steps N`, and its line in the help."""

    name: str
    value: str
    help: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """What a column can fill.

    `also` are the other names that people give it. `meaning` is its line in `docs/columns.md`.
    `becomes` says what it is read into, where it is no parameter itself; then `allowed` says what
    it may be. `counted_as` are names that mean it only where their value is a number.
    """

    meaning: str
    also: tuple[str, ...] = ()
    flag: Flag | None = None
    becomes: str = ""
    allowed: str = ""
    counted_as: tuple[str, ...] = ()


FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        PROMPT: Field(
            also=("prompts", "positive_prompt"),
            allowed="a text that is not empty",
            meaning="What to draw, at most `IMAGEMILL_MAX_PROMPT_BYTES`. Each row needs one. Where "
            "no column is a prompt by another name, it is `caption`, else `text`, else `positive`.",
        ),
        KEY: Field(
            allowed="a text or a whole number, at most 255 bytes",
            meaning="The row's key, unique in the manifest. Seeds are derived from it, and "
            "`--key` finds the row's images.",
        ),
        "negative_prompt": Field(
            also=("negative", "negative_prompts", "neg_prompt"),
            flag=Flag(name="--negative-prompt", value="TEXT", help="What not to draw."),
            meaning="What not to draw, at most `IMAGEMILL_MAX_PROMPT_BYTES`.",
        ),
        "model": Field(
            also=(
                *("model_name", "checkpoint", "sd_model", "ckpt_name", "sd_model_checkpoint"),
                *("base_model", "base_model_name"),
            ),
            flag=Flag(name="--model", value="NAME", help="Model, by its registry name."),
            meaning="The model, by its name in the registry (`imagemill models`).",
        ),
        SIZE: Field(
            also=("resolution",),
            flag=Flag(
                name="--size", value="WxH", help="Width and height in pixels, such as 512x768."
            ),
            becomes="width, height",
            allowed="`512x768`, `(512, 768)`, or a list of two numbers",
            meaning="Both sides at once; not together with `width` or `height`.",
        ),
        "width": Field(
            flag=Flag(name="--width", value="N", help="Width in pixels."),
            meaning="The width in pixels. The whole picture has at most `IMAGEMILL_MAX_PIXELS`.",
        ),
        "height": Field(
            flag=Flag(name="--height", value="N", help="Height in pixels."),
            meaning="The height in pixels.",
        ),
        "steps": Field(
            also=(
                *("step", "num_steps", "num_inference_steps", "sampling_steps"),
                *("inference_steps", "sample_steps"),
            ),
            flag=Flag(name="--steps", value="N", help="Denoising steps."),
            meaning="The number of denoising steps.",
        ),
        "guidance_scale": Field(
            also=("guidance", "cfg", "cfg_scale", "scale"),
            flag=Flag(name="--guidance-scale", value="X", help="Guidance; 1 is none."),
            meaning="Classifier-free guidance; 1 or less is none.",
        ),
        SAMPLER: Field(
            also=(
                *("sampler_name", "sample_sampler", "sampling_method", "scheduler"),
                "scheduler_name",
            ),
            flag=Flag(
                name="--sampler", value="NAME", help="Sampler; `imagemill samplers` lists them."
            ),
            meaning="The sampler, by any name that `imagemill samplers` lists, or by another "
            "tool's: `Euler a`, `k_euler_a` (A1111), `euler_ancestral` (ComfyUI), `dpmpp_2m_k` "
            "(InvokeAI), `EulerAncestralDiscreteScheduler` (diffusers).",
        ),
        SAMPLER_INDEX: Field(
            becomes="sampler",
            allowed="as `sampler`",
            meaning="A1111's API: the sampler where `sampler_name` is empty.",
        ),
        SCHEDULE: Field(
            also=("schedule_type",),
            becomes="sampler (schedule)",
            allowed="a schedule that this sampler has, such as `karras`; `normal`; `Automatic`",
            meaning="The noise schedule where it is named apart, also in `scheduler` where "
            "another column is the sampler: `DPM++ 2M` and `Karras` are `dpmpp_2m_karras`. "
            "`normal` is the sampler itself, `Automatic` what A1111 takes for it.",
        ),
        "seed": Field(
            also=("noise_seed", "image_seed"),
            meaning="Sample i has the seed + i. Without a seed, or with −1, the seed is derived "
            "from the job's seed (`--seed`) and the row.",
        ),
        "seeds": Field(
            flag=Flag(
                name="--seeds", value="N,N,…", help="One image of each row for each of these seeds."
            ),
            meaning="One picture for each seed: a list, or `1,2,3`; not together with `seed`.",
        ),
        "samples": Field(
            also=(
                *("num_images", "num_samples", "n_samples", "images_per_prompt"),
                *("num_images_per_prompt", "image_number"),
            ),
            counted_as=("images",),
            flag=Flag(name="--samples", value="N", help="Images of each row."),
            meaning="How many pictures of this row. SwarmUI's `images` is this where its value "
            "is a number, else an extra.",
        ),
        BATCH_SIZE: Field(
            becomes="samples",
            allowed="a whole number of at least 1",
            meaning="Times `n_iter` it is the number of samples.",
        ),
        BATCHES: Field(
            also=("batch_count", "iterations"),
            becomes="samples",
            allowed="a whole number of at least 1",
            meaning="Times `batch_size` it is the number of samples.",
        ),
        "format": Field(
            also=("output_format", "image_format", "file_format"),
            flag=Flag(name="--image-format", value="FORMAT", help="png, jpeg or webp."),
            meaning="The format of the file.",
        ),
        "quality": Field(
            also=("jpeg_quality",),
            flag=Flag(name="--quality", value="N", help="1 to 100, for jpeg and webp."),
            meaning="How well JPEG and WebP keep the picture; refused beside PNG.",
        ),
        "init_image": Field(
            also=("init_img", "input_image"),
            flag=Flag(
                name="--init-image",
                value="FILE",
                help="Start from this picture: a file, or image:37.",
            ),
            meaning="The picture to start from: a still PNG, JPEG or WebP of 8 bits a channel. "
            "Nothing is ever fetched from a URL.",
        ),
        "mask": Field(
            also=("mask_image",),
            flag=Flag(name="--mask", value="FILE", help="Paint only where this picture is white."),
            meaning="White where `init_image` is painted over, black where it stays.",
        ),
        "strength": Field(
            also=("denoising_strength", "denoise", "init_image_creativity"),
            flag=Flag(
                name="--strength",
                value="X",
                help="How much of the start picture to replace, 0 to 1.",
            ),
            meaning="How much of `init_image` is replaced; not together with `start_step`. 1 is "
            "also allowed without an init image, and says nothing then.",
        ),
        "start_step": Field(
            flag=Flag(
                name="--start-step", value="N", help="Start at this step instead of a strength."
            ),
            meaning="The step at which a variation of `init_image` starts; less than `steps`.",
        ),
        "control_image": Field(
            also=("controlnet_image",),
            flag=Flag(name="--control-image", value="FILE", help="Picture for a ControlNet."),
            meaning="The picture that a ControlNet reads: edges, depth, a pose. Named as an init "
            "image is.",
        ),
        "controlnet": Field(
            also=("controlnet_model",),
            flag=Flag(name="--controlnet", value="NAME", help="ControlNet, by its registry name."),
            meaning="The ControlNet, by its name in the registry (`[controlnets.NAME]`).",
        ),
        "control_scale": Field(
            also=("controlnet_scale", "controlnet_conditioning_scale"),
            flag=Flag(name="--control-scale", value="X", help="How much the ControlNet counts."),
            meaning="How much a ControlNet counts; 1 is all of it.",
        ),
        "reference_image": Field(
            also=("ip_adapter_image",),
            flag=Flag(
                name="--reference-image", value="FILE", help="Picture to draw alike, or to edit."
            ),
            meaning="The picture that the model's IP-Adapter draws alike, or that an editing model "
            "(FLUX.1 Kontext, Qwen-Image-Edit) changes as the prompt says. Named as an init image "
            "is.",
        ),
        "reference_scale": Field(
            also=("ip_adapter_scale",),
            flag=Flag(name="--reference-scale", value="X", help="How much the reference counts."),
            meaning="How much an IP-Adapter counts; 1 is all of it.",
        ),
        "guidance_start": Field(
            flag=Flag(
                name="--guidance-start", value="X", help="Share of the steps before guidance."
            ),
            meaning="The share of an image's denoising steps before which there is no guidance.",
        ),
        "guidance_end": Field(
            flag=Flag(name="--guidance-end", value="X", help="Share of the steps up to its end."),
            meaning="The share of an image's denoising steps from which there is no guidance any "
            "more.",
        ),
        "clip_skip": Field(
            flag=Flag(name="--clip-skip", value="N", help="Use the text encoder's Nth last layer."),
            meaning="Which of the text encoder's last layers is used, counted from the end; 1 "
            "is the last.",
        ),
        "guidance_rescale": Field(
            also=("cfg_rescale", "cfg_rescale_multiplier"),
            flag=Flag(name="--guidance-rescale", value="X", help="Rescale guided noise, 0 to 1."),
            meaning="How far guided noise is rescaled.",
        ),
        "eta": Field(
            flag=Flag(name="--eta", value="X", help="Noise that DDIM adds, 0 to 1."),
            meaning="How much noise DDIM adds.",
        ),
        "sampler_options": Field(
            flag=Flag(name="--sampler-options", value="JSON", help="More options of the sampler."),
            meaning="More options of the sampler, in a text cell as JSON. An option that is "
            "unknown, or that the sampler does not take, is refused.",
        ),
        "long_prompts": Field(
            flag=Flag(name="--long-prompts", value="HOW", help="truncate or chunk."),
            meaning="What is done with a prompt longer than the text encoder's window.",
        ),
        "prompt_weighting": Field(
            flag=Flag(name="--prompt-weighting", value="BOOL", help="Read (word:1.2) as a weight."),
            meaning="Whether `(word:1.2)` is a weight.",
        ),
        "adapters": Field(
            also=("loras", "lora"),
            flag=Flag(name="--adapters", value="NAME:X,…", help="LoRA adapters and their weights."),
            meaning="LoRA adapters of the registry, and their weights from −10 to 10.",
        ),
        "refiner_start": Field(
            also=("refiner_switch_at", "refiner_switch", "denoising_end"),
            flag=Flag(
                name="--refiner-start",
                value="X",
                help="Where the refiner goes on; 1 leaves it out.",
            ),
            meaning="Where in the schedule a model's refiner goes on; 1 leaves it out.",
        ),
    }
)
"""Every field that a column can fill.

Left out of the other names on purpose: `n` and `num` (as often a running number as a count),
`image` (a picture in Hugging Face data sets), and single letters.
"""

PROMPT_FALLBACKS = ("caption", "text", "positive")
"""Names that mean the prompt only where no column is called prompt."""
