"""Loads quantised weights by diffusers' own quantization configurations."""

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import diffusers
import torch
import transformers

from imagemill.db.errors import ModelError, first_line
from imagemill.db.models.quantization import DENOISER
from imagemill.db.models.registry import ModelEntry

_DENOISERS = ("transformer", "unet", "decoder")


def schemes_of(entry: ModelEntry, index: Mapping[str, Any]) -> Mapping[str, tuple[str, str]]:
    """Component → (scheme, the library of its class), by a pipeline folder's index.

    Raises `ModelError` if the pipeline has no such component, or if a part takes its place.
    """
    found = {}
    for name, scheme in entry.quantization.items():
        component = name
        if name == DENOISER:
            component = next((each for each in _DENOISERS if each in index), name)
        if not isinstance(index.get(component), list):
            raise ModelError(f"model {entry.name}: quantization: there is no component {name}")
        if component in entry.parts:
            raise ModelError(
                f"model {entry.name}: quantization: {component} is a part of another place; "
                "only components of the source can be quantised"
            )
        found[component] = (scheme, str(index[component][0]))
    return found


def quantization_config(
    model: str,
    schemes: Mapping[str, tuple[str, str]],
    dtype: torch.dtype,
    device: torch.device,
) -> Any:
    """What `DiffusionPipeline.from_pretrained` takes as its `quantization_config`.

    Raises `ModelError` if a package is missing or the device can't compute with the scheme.
    """
    mapping = {}
    for component, (scheme, library) in schemes.items():
        package, make = _MAKERS[scheme]
        if find_spec(package) is None:
            raise ModelError(
                f"model {model}: quantization {scheme} needs {package}: {_HOW[package]}"
            )
        if package == _BITSANDBYTES and device.type != "cuda":
            raise ModelError(f"model {model}: quantization {scheme} needs a CUDA device")
        # The two libraries have a class of the same name each, for their own modules.
        mapping[component] = make(transformers if library == "transformers" else diffusers, dtype)
    return diffusers.PipelineQuantizationConfig(quant_mapping=mapping)


def load_gguf(model: str, component: Any, file: Path, config: Path, dtype: torch.dtype) -> Any:
    """A component of this class from a GGUF file. `config` is the folder of its configuration.

    Raises `ModelError` if diffusers loads no such file for the class, or if it does not fit.
    """
    if find_spec("gguf") is None:
        raise ModelError(f"model {model}: {file.name} needs gguf: {_HOW['gguf']}")
    if not hasattr(component, "from_single_file"):
        raise ModelError(f"model {model}: diffusers loads no .gguf file for {component.__name__}")
    try:
        return component.from_single_file(
            str(file),
            config=str(config),
            quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=dtype),
            dtype=dtype,
            local_files_only=True,
        )
    except (ValueError, LookupError, RuntimeError, AttributeError, OSError) as error:
        raise ModelError(
            f"model {model}: {file.name} is no {component.__name__}: {first_line(error)}"
        ) from error


def described(entry: ModelEntry) -> str | None:
    """How a model's weights are quantised, with the packages' versions; None if they are not."""
    said = [
        f"{name} {scheme} ({_version(_MAKERS[scheme][0])})"
        for name, scheme in sorted(entry.quantization.items())
    ]
    said += [f"{name} gguf ({_version('gguf')})" for name, p in entry.parts.items() if p.is_gguf]
    return ", ".join(said) or None


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def _int8(library: Any, _dtype: torch.dtype) -> Any:
    from torchao.quantization import Int8WeightOnlyConfig  # noqa: PLC0415  # not always installed

    return library.TorchAoConfig(Int8WeightOnlyConfig())


def _fp8(library: Any, _dtype: torch.dtype) -> Any:
    from torchao.quantization import Float8WeightOnlyConfig  # noqa: PLC0415  # as above

    return library.TorchAoConfig(Float8WeightOnlyConfig())


def _bnb_int8(library: Any, _dtype: torch.dtype) -> Any:
    return library.BitsAndBytesConfig(load_in_8bit=True)


def _bnb_nf4(library: Any, dtype: torch.dtype) -> Any:
    return library.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


_TORCHAO, _BITSANDBYTES = "torchao", "bitsandbytes"
_HOW: Mapping[str, str] = MappingProxyType(
    {
        _TORCHAO: "pip install 'imagemill[quantised]'",
        "gguf": "pip install 'imagemill[quantised]'",
        _BITSANDBYTES: "pip install bitsandbytes",
    }
)
_MAKERS: Mapping[str, tuple[str, Callable[[Any, torch.dtype], Any]]] = MappingProxyType(
    {
        "int8": (_TORCHAO, _int8),
        "fp8": (_TORCHAO, _fp8),
        "bnb_int8": (_BITSANDBYTES, _bnb_int8),
        "bnb_nf4": (_BITSANDBYTES, _bnb_nf4),
    }
)
"""Scheme → its package, and what makes the configuration for a library's modules."""
