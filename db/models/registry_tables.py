"""The tables of the registry file, as pydantic checks them. `registry` makes entries of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from imagemill.db.errors import ModelError
from imagemill.db.models.added_models import AddedTable
from imagemill.db.models.scorer_tables import ScorerTable
from imagemill.db.toml_files import TomlError, load_toml

Kind = Literal["text_to_image", "unconditional", "generic"]

_LICENSE = r"^[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}$"


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
    license: Annotated[str, StringConstraints(pattern=_LICENSE)] | None = None
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


def read_registry(file: Path) -> RegistryFile:
    """The tables of a registry file. Raises `ModelError`, which names the file and the key."""
    try:
        return RegistryFile.model_validate(load_toml(file))
    except OSError as error:
        raise ModelError(f"the model registry {file}: {error.strerror}") from None
    except TomlError as error:
        raise ModelError(f"the model registry {file}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) or "''" for part in first["loc"])
        raise ModelError(f"the model registry {file}: {where}: {said_of(first)}") from None


def said_of(error: ErrorDetails) -> str:
    """What is wrong with a value, and the value, unless it is a whole table or not there."""
    said = error["msg"].removeprefix("Value error, ")
    found = error["input"]
    if error["type"] in {"missing", "extra_forbidden"} or isinstance(found, Mapping):
        return said
    return f"{said}; found {repr(found)[:60]}"
