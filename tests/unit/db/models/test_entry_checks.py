"""What an entry of the registry says without effect is refused in one line."""

import json
import shutil
from pathlib import Path

import pytest

from imagemill.db.errors import ModelError
from imagemill.db.models.entry_checks import check_entry
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings

REVISION = "0123456789abcdef0123456789abcdef01234567"
HERE = 'source = "shapes"\n'
VAE = 'parts = { vae = { source = "vae" } }\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a copy of a model, a VAE beside it, and room for a registry."""
    shapes = Path(str(load_registry(Settings.load()).find("shapes64").source))
    shutil.copytree(shapes, tmp_path / "shapes")
    shutil.copytree(shapes / "vae", tmp_path / "vae")
    (tmp_path / "one.safetensors").touch()
    return tmp_path


def _check(folder: Path, table: str) -> None:
    file = folder / "models.toml"
    file.write_text(f"[models.a]\n{table}")
    registry = load_registry(Settings.load(models=file, model_cache=folder / "cache"))
    check_entry(registry.find("a"), registry)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (HERE + VAE.replace("vae =", "vea ="), r"parts\.vea: the pipeline has .*mean vae\?"),
        (HERE + VAE.replace("vae =", "safety_checker ="), r"parts\.safety_checker: the pipeline"),
        (VAE.replace("vae =", "vea ="), r"parts\.vea: the pipeline has refiner, .*mean vae\?"),
        (HERE + f'revision = "{REVISION}"\n', "revision is for a source on the Hub, and .*shapes"),
        (VAE + f'revision = "{REVISION}"\n', "revision is for .*, and there is none"),
        (HERE + VAE.replace('" }', f'", revision = "{REVISION}" }}'), r"parts\.vae: revision is"),
        (HERE + 'config = "shapes"\n', "config is for a source that is one .safetensors"),
        (HERE + 'variant = "fp16"\n', "variant: 'fp16'; no weights here have .fp16 in"),
        (HERE + VAE.replace('" }', '", variant = "x" }'), r"parts\.vae: variant: 'x'; no weights"),
        (
            'source = "one.safetensors"\nvariant = "fp16"\n',
            "variant: 'fp16'; one file has no variant",
        ),
        (
            HERE + 'ip_adapter = "plain"\n',
            "ip_adapter: no IP-Adapter is called 'plain'; registered: none",
        ),
        (
            HERE + 'ip_adapter = "x"\n[ip_adapters.x]\nsource = "shapes"\n',
            "ip_adapter is for kind = 'generic': the guided engine takes no IP-Adapter",
        ),
        (
            HERE + 'kind = "generic"\nquantization = { text_encodr = "int8" }\n',
            r"quantization\.text_encodr: the pipeline has denoiser, .* mean text_encoder\?",
        ),
    ],
)
def test_what_has_no_effect_is_refused(folder: Path, table: str, says: str) -> None:
    with pytest.raises(ModelError, match=rf"^model a: {says}") as caught:
        _check(folder, table)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "table",
    [
        HERE,
        HERE + VAE,
        VAE,
        HERE + VAE.replace("vae =", "refiner ="),
        'source = "one.safetensors"\nconfig = "shapes"\n' + VAE,
        f'source = "one.safetensors"\nconfig = "x/y"\nrevision = "{REVISION}"\n',
        HERE + 'kind = "generic"\nquantization = { denoiser = "int8", text_encoder = "int8" }\n',
        f'source = "x/y"\nvariant = "fp16"\nrevision = "{REVISION}"\n',
        f'source = "x/y"\nkind = "generic"\nrevision = "{REVISION}"\n'
        'parts = { transformer = { source = "vae" } }\n',
    ],
)
def test_what_has_an_effect_or_is_not_here_is_taken(folder: Path, table: str) -> None:
    _check(folder, table)


def test_a_variant_that_one_component_has_is_enough(folder: Path) -> None:
    weights = next((folder / "shapes" / "unet").glob("*.safetensors"))
    weights.rename(weights.with_name(f"{weights.stem}.fp16.safetensors"))
    _check(folder, HERE + 'variant = "fp16"\n')


def test_a_generic_pipeline_has_the_parts_of_its_index(folder: Path) -> None:
    index = folder / "shapes" / "model_index.json"
    listed = json.loads(index.read_text())
    index.write_text(json.dumps(listed | {"transformer": ["diffusers", "X"]}))
    generic = HERE + 'kind = "generic"\n'
    _check(folder, generic + VAE.replace("vae =", "transformer ="))
    with pytest.raises(ModelError, match=r"parts\.refiner: the pipeline has"):
        _check(folder, generic + VAE.replace("vae =", "refiner ="))
