"""Qwen-Image-Edit as a small pipeline with random weights, and what a CPU needs to run it."""

import copy
import importlib
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.qwenimage import (
    pipeline_qwenimage_edit,
    pipeline_qwenimage_edit_plus,
)
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from tools.small_models import families
from tools.small_models.parts import VOCABULARY, tokenizer

_MARKS = ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
_PIXELS = 64 * 64

_scaled = pipeline_qwenimage_edit.calculate_dimensions


class _PictureProcessor(transformers.Qwen2VLProcessor):
    """The processor of texts and pictures, without that of videos: only this needs torchvision."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        self.image_token, self.video_token = _MARKS[0], _MARKS[3]
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


# A saved pipeline names its classes, so this one must have the name that it stands for.
_PictureProcessor.__name__ = transformers.Qwen2VLProcessor.__name__
_PictureProcessor.__module__ = transformers.Qwen2VLProcessor.__module__


def prepare() -> None:
    """Let this process load and call Qwen-Image-Edit, here and in the engine alike.

    Its processor asks for torchvision, which neither this project nor the pipeline uses. And it
    scales every picture to a megapixel, which takes minutes on a CPU: here to 64 x 64 pixels.
    """
    if not is_torchvision_available():
        # diffusers imports the library by its name, and may get another object than we did.
        importlib.import_module("transformers").Qwen2VLProcessor = _PictureProcessor
    pipeline_qwenimage_edit_plus.CONDITION_IMAGE_SIZE = _PIXELS
    pipeline_qwenimage_edit_plus.VAE_IMAGE_SIZE = _PIXELS
    pipeline_qwenimage_edit.calculate_dimensions = lambda _, ratio: _scaled(_PIXELS, ratio)


def qwen_image_edit(kind: str) -> Any:
    """Qwen-Image with marks for pictures in its texts, and a processor that reads both.

    `kind` is the pipeline's class: the first, or that of the versions since 2509.
    """
    prepare()
    parts = dict(families.build("qwen_image").components)
    reader = tokenizer(length=1024, ends=False)
    reader.add_special_tokens(
        {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *_MARKS]}
    )
    config = copy.deepcopy(parts["text_encoder"].config)
    config.text_config.vocab_size = VOCABULARY + len(_MARKS)
    names = ("image_token_id", "vision_start_token_id", "vision_end_token_id", "video_token_id")
    for name, mark in zip(names, _MARKS, strict=True):
        setattr(config, name, reader.convert_tokens_to_ids(mark))
    torch.manual_seed(7)
    parts["text_encoder"] = transformers.Qwen2_5_VLForConditionalGeneration(config)
    parts["tokenizer"] = reader
    processor = _PictureProcessor(transformers.Qwen2VLImageProcessor(), reader)
    return getattr(diffusers, kind)(**parts, processor=processor)
