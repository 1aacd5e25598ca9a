"""Scorers with a model of transformers: CLIP score, aesthetic head, classifiers.

Only safetensors are read, and no code of a model's repository is run.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from PIL.Image import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoProcessor,
)

from imagemill.db.errors import ModelError, ServiceError, first_line
from imagemill.db.models.scorer_tables import (
    AestheticTable,
    ClassifierTable,
    ClipTable,
    WeightsTable,
)
from imagemill.db.models.weights import component_files, hub_cache
from imagemill.db.scorers import ScorerEntry
from imagemill.db.settings import Settings
from imagemill.worker.models.device import resolve_device
from imagemill.worker.scores import ScoredImage, Scores

BATCH = 16
"""Pictures of one forward pass."""

_FETCHED = ["*.json", "*.txt", "*.model", "*.safetensors"]


class ClipScorer:
    """Cosine of the embeddings of picture and prompt (Hessel et al., "CLIPScore", without 2.5 x).

    A prompt that is longer than the model's window is cut.
    """

    batch = BATCH

    def __init__(self, entry: ScorerEntry, settings: Settings) -> None:
        assert isinstance(entry.options, ClipTable)
        self.yields = (entry.name,)
        self._device = resolve_device(settings)
        folder = _folder(entry.options, settings)
        self._processor = _processor(AutoProcessor, folder)
        self._model = _loaded(AutoModel, folder, self._device)
        self._window = int(self._model.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def score(self, pictures: Sequence[Image], records: Sequence[ScoredImage]) -> Sequence[Scores]:
        """A cosine in [-1, 1] for each picture; CLIP models usually give 0.15 to 0.35."""
        given = self._processor(
            text=[record.prompt for record in records],
            images=list(pictures),
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=self._window,
        ).to(self._device)
        pixels = given.pop("pixel_values")
        images = _embedding(self._model.get_image_features(pixel_values=pixels))
        texts = _embedding(self._model.get_text_features(**given))
        return [{self.yields[0]: value} for value in (images * texts).sum(-1).tolist()]


class AestheticScorer:
    """Linear layers on the normalized embedding of a picture: LAION's aesthetic predictors."""

    batch = BATCH

    def __init__(self, entry: ScorerEntry, settings: Settings) -> None:
        assert isinstance(entry.options, AestheticTable)
        self.yields = (entry.name,)
        self._device = resolve_device(settings)
        folder = _folder(entry.options, settings)
        self._processor = _processor(AutoImageProcessor, folder)
        self._model = _loaded(AutoModel, folder, self._device)
        self._layers = _layers(entry.options.head, self._device)

    @torch.inference_mode()
    def score(self, pictures: Sequence[Image], records: Sequence[ScoredImage]) -> Sequence[Scores]:
        """A value for each picture in the head's own units; LAION's give about 1 to 10."""
        del records
        given = self._processor(images=list(pictures), return_tensors="pt").to(self._device)
        value = _embedding(self._model.get_image_features(**given))
        for weight, bias in self._layers:
            value = torch.nn.functional.linear(value, weight, bias)
        return [{self.yields[0]: each} for each in value[:, 0].tolist()]


class ClassifierScorer:
    """The probability (softmax) of one label of an image classifier: NSFW, watermarks, …"""

    batch = BATCH

    def __init__(self, entry: ScorerEntry, settings: Settings) -> None:
        assert isinstance(entry.options, ClassifierTable)
        self.yields = (entry.name,)
        self._device = resolve_device(settings)
        folder = _folder(entry.options, settings)
        self._processor = _processor(AutoImageProcessor, folder)
        self._model = _loaded(AutoModelForImageClassification, folder, self._device)
        labels = {str(label): index for index, label in self._model.config.id2label.items()}
        if entry.options.label not in labels:
            raise ModelError(f"no label {entry.options.label!r}; it has {', '.join(labels)}")
        self._label = int(labels[entry.options.label])

    @torch.inference_mode()
    def score(self, pictures: Sequence[Image], records: Sequence[ScoredImage]) -> Sequence[Scores]:
        """A probability in [0, 1] for each picture."""
        del records
        given = self._processor(images=list(pictures), return_tensors="pt").to(self._device)
        shares = self._model(**given).logits.float().softmax(-1)[:, self._label]
        return [{self.yields[0]: share} for share in shares.tolist()]


def _folder(table: WeightsTable, settings: Settings) -> Path:
    """The model's folder; a Hub id's pinned revision is fetched at the first use."""
    folder = Path(table.source)
    if table.on_hub:
        cache = hub_cache(settings.model_cache)
        try:
            fetched = snapshot_download(
                table.source, revision=table.revision, cache_dir=cache, allow_patterns=_FETCHED
            )
        except (HfHubHTTPError, OSError) as error:
            raise ServiceError(f"{table.source}: {first_line(error)}") from error
        folder = Path(fetched)
    component_files(folder, None)  # refuses pickles
    return folder


def _processor(kind: Any, folder: Path) -> Any:
    return kind.from_pretrained(folder, local_files_only=True)


def _loaded(kind: Any, folder: Path, device: torch.device) -> Any:
    model = kind.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )
    return model.to(device).eval()


def _embedding(output: Any) -> Tensor:
    """Embeddings of length 1, one a row; transformers gives them alone or in an object."""
    found: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return torch.nn.functional.normalize(found.float(), dim=-1)


def _layers(head: Path, device: torch.device) -> list[tuple[Tensor, Tensor | None]]:
    """Weights and biases of linear layers, in the order of the numbers in their names."""
    tensors = {name: each.float().to(device) for name, each in load_file(head).items()}
    weights = sorted(
        (name for name in tensors if name.endswith("weight")),
        key=lambda name: [int(number) for number in re.findall(r"\d+", name)],
    )
    layers = [(tensors[name], tensors.get(name[: -len("weight")] + "bias")) for name in weights]
    if not layers or layers[-1][0].shape[0] != 1:
        raise ModelError(f"{head}: not linear layers that end in one value")
    return layers
