"""Schemes by which a component's weights are made smaller when they are loaded."""

from collections.abc import Mapping
from types import MappingProxyType

from imagemill.db.errors import ModelError

DENOISER = "denoiser"
"""Stands for a pipeline's transformer or U-Net, whatever it is called."""

SCHEMES: Mapping[str, str] = MappingProxyType(
    {
        "int8": "torchao: 8-bit integers, a scale for each row of a matrix",
        "fp8": "torchao: 8-bit floats (E4M3)",
        "bnb_int8": "bitsandbytes: LLM.int8()",
        "bnb_nf4": "bitsandbytes: 4-bit normal floats",
    }
)


def chosen_schemes(where: str, given: str | Mapping[str, str], kind: str) -> Mapping[str, str]:
    """Component → scheme, from a registry entry's `quantization`.

    One scheme alone is the denoiser's. Raises `ModelError`, which names `where`, if there is no
    such scheme or if the kind of the model can't have one.
    """
    schemes = {DENOISER: given} if isinstance(given, str) else dict(given)
    for scheme in schemes.values():
        if scheme not in SCHEMES:
            allowed = ", ".join(SCHEMES)
            raise ModelError(f"{where}: quantization {scheme!r} is not known; allowed: {allowed}")
    if schemes and kind != "generic":
        raise ModelError(f"{where}: quantization needs kind = 'generic'")
    return MappingProxyType(schemes)
