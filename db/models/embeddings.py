"""Whether the textual-inversion embeddings of a model are some, and fit its text encoders.

Only headers and configurations are read, so this needs no torch.
"""

from collections.abc import Mapping
from pathlib import Path

from imagemill.db.errors import ModelError
from imagemill.db.models.adapter_files import told
from imagemill.db.models.components import component_folders
from imagemill.db.models.headers import read_shapes
from imagemill.db.models.registry import ModelEntry
from imagemill.db.models.weights import read_config

_TEXT_ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}


def check_embeddings(entry: ModelEntry) -> None:
    """Raise `ModelError` if an embedding of a model does not fit its text encoders.

    Of a model that is not on this machine, nothing is said.
    """
    try:
        widths = _text_widths(entry) if entry.embeddings else {}
    except ModelError:
        return
    for token, file in entry.embeddings.items():
        where = f"model {entry.name}: embedding {token}"
        if file.suffix != ".safetensors":
            raise ModelError(f"{where}: {file.name} is not a .safetensors file")
        try:
            _check_embedding(file, widths)
        except ModelError as error:
            raise ModelError(f"{where}: {error.message}") from None


def _check_embedding(file: Path, widths: Mapping[str, int | None]) -> None:
    """Raise `ModelError` unless a file has vectors for each encoder, by key (`clip_l`, `clip_g`).

    The vectors for a single encoder are the only tensor in their file, under any key.
    """
    shapes = read_shapes(file)
    for key, width in widths.items():
        if len(widths) == 1 and len(shapes) != 1:
            raise ModelError(f"{file}: no embedding: {told(shapes)}; an embedding is one tensor")
        if len(widths) > 1 and key not in shapes:
            allowed = " and ".join(widths)
            raise ModelError(f"{file}: {told(shapes)}; for two text encoders: {allowed}")
        shape = shapes[key] if len(widths) > 1 else next(iter(shapes.values()))
        if len(shape) not in (1, 2) or 0 in shape:
            raise ModelError(f"{file}: no embedding: a tensor of shape {list(shape)}")
        if width is not None and shape[-1] != width:
            raise ModelError(
                f"{file}: vectors of {shape[-1]:,} numbers, where the text encoder has {width:,}"
            )


def _text_widths(entry: ModelEntry) -> Mapping[str, int | None]:
    """The numbers of a token's vector by the key of a text encoder; None if nothing says it."""
    folders = component_folders(entry)
    found: dict[str, int | None] = {}
    for key, component in _TEXT_ENCODERS.items():
        config = read_config(folders[component][0]) if component in folders else {}
        config = config.get("text_config", config)
        width = config.get("hidden_size")
        # Of several text encoders, only CLIP's learn tokens.
        if component == "text_encoder" or str(config.get("model_type")).startswith("clip"):
            found[key] = width if isinstance(width, int) else None
    return found
