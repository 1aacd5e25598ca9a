"""The tables of the registry file, as pydantic checks them. `registry` makes entries of them."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError

from imagemill.db.errors import ModelError
from imagemill.db.models.added_models import AddedTable, EncoderTable
from imagemill.db.models.scorer_tables import SCORER_TABLES, ScorerTable
from imagemill.db.models.table_words import LICENSE, first_problem
from imagemill.db.toml_files import TomlError, load_toml

Kind = Literal["text_to_image", "unconditional", "generic"]

_Filled = Annotated[str, StringConstraints(min_length=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PartTable(_Table):
    """The place of one component, as `registry.Part` has it."""

    source: _Filled
    revision: str | None = None
    subfolder: str = ""
    variant: str | None = None
    file: str = ""


class ModelTable(_Table):
    """A model, as `registry.ModelEntry` has it; `parts` are checked one by one."""

    source: _Filled | None = None
    revision: str | None = None
    variant: str | None = None
    dtype: Literal["fp16", "bf16", "fp32"] | None = None
    digest: str | None = None
    license: Annotated[str, StringConstraints(pattern=LICENSE)] | None = None
    kind: Kind = "text_to_image"
    config: str | None = None
    ip_adapter: str | None = None
    parts: dict[str, dict[str, Any]] = {}
    embeddings: dict[_Filled, Path] = {}
    defaults: dict[str, Any] = {}
    quantization: str | dict[str, str] = {}


def _some_path(value: Any) -> Any:
    if value == "":
        raise ValueError("an empty text is no file")
    return value


class RegistryFile(_Table):
    """All tables of the file, by kind and name."""

    models: dict[_Filled, ModelTable] = {}
    adapters: dict[_Filled, Annotated[Path, BeforeValidator(_some_path)]] = {}
    controlnets: dict[_Filled, AddedTable] = {}
    ip_adapters: dict[_Filled, AddedTable] = {}
    scorers: dict[str, ScorerTable] = {}


_TABLES: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "": RegistryFile,
        "models": ModelTable,
        "controlnets": AddedTable,
        "ip_adapters": AddedTable,
        "image_encoder": EncoderTable,
        **SCORER_TABLES,
    }
)
"""The tables of the file: by their keys there, or by their kinds."""


def read_registry(file: Path) -> RegistryFile:
    """The tables of a registry file. Raises `ModelError`, which names the file and the key."""
    try:
        return RegistryFile.model_validate(load_toml(file))
    except OSError as error:
        raise ModelError(f"the model registry {file}: {error.strerror}") from None
    except TomlError as error:
        raise ModelError(f"the model registry {file}: {error}") from None
    except ValidationError as error:
        raise ModelError(f"the model registry {file}: {first_problem(error, _TABLES)}") from None
