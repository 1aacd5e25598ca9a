"""Loading: folders, parts, single files; safe, from local files alone."""

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from imagemill.db.errors import ModelError, SettingsError
from imagemill.db.models.components import weights_digest
from imagemill.db.models.facts import model_facts
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.device import prepare_process, resolve_device, resolve_precision
from imagemill.worker.models.loader import WarmModels, load_model
from imagemill.worker.models.model import Model
from tests.engine.rendering import hashes, render, spec_for
from tests.models.checkpoint import checkpoint_of
from tools.small_models.guided import save_refiner, save_sdxl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the built-in model's folder."""
    source = load_registry(Settings.load()).find("shapes64").source
    assert source is not None
    target = tmp_path_factory.mktemp("models") / "copy"
    shutil.copytree(source, target)
    return target


def _settings(folder: Path, registry: str, **values: object) -> Settings:
    file = folder.parent / "models.toml"
    file.write_text(registry)
    return Settings.load(models=file, device="cpu", dtype="fp32", **values)


def _load(settings: Settings, name: str) -> Model:
    prepare_process(settings)
    return load_model(load_registry(settings).find(name), settings=settings)


def _picture(model: Model, settings: Settings) -> bytes:
    spec = spec_for(model, steps=3)
    return hashes(render(open_engine(model, spec.group(), settings, 2), [spec]))[0]


def test_the_same_files_elsewhere_are_the_same_model(folder: Path) -> None:
    settings = _settings(folder, '[models.copy]\nsource = "copy"\n')
    copy = _load(settings, "copy")
    built_in = _load(settings, "shapes64")

    assert copy.weights_digest == built_in.weights_digest
    assert _picture(copy, settings) == _picture(built_in, settings)


def test_one_changed_byte_is_another_model(folder: Path, tmp_path: Path) -> None:
    changed = tmp_path / "copy"
    shutil.copytree(folder, changed)
    config = changed / "scheduler" / "scheduler_config.json"
    document = json.loads(config.read_text())
    config.write_text(json.dumps(document | {"steps_offset": 0}))
    settings = _settings(changed, '[models.copy]\nsource = "copy"\n')
    registry = load_registry(settings)

    digests = [weights_digest(registry.find(name)) for name in ("copy", "shapes64")]
    assert digests[0] != digests[1]


def test_a_model_of_parts_from_different_places(folder: Path) -> None:
    settings = _settings(
        folder,
        """
[models.composed.parts]
tokenizer = { source = "copy", subfolder = "tokenizer" }
text_encoder = { source = "copy", subfolder = "text_encoder" }
vae = { source = "copy/vae" }
unet = { source = "copy/unet" }
[models.composed.parts.scheduler]
class = "LMSDiscreteScheduler"
beta_start = 0.00085
beta_end = 0.012
beta_schedule = "scaled_linear"
prediction_type = "v_prediction"
timestep_spacing = "leading"
steps_offset = 1
""",
    )
    composed = _load(settings, "composed")

    assert composed.scheduler_config["_class_name"] == "LMSDiscreteScheduler"
    assert composed.facts == model_facts(load_registry(settings).find("composed"))
    assert composed.facts.latent_scale == 4
    # It says nothing of clipping, and a latent must not be clipped.
    assert composed.scheduler_config["clip_sample"] is False
    spec = spec_for(composed, sampler="lms", steps=6)
    pixels = hashes(render(open_engine(composed, spec.group(), settings, 2), [spec]))[0]
    whole = _load(settings, "shapes64")
    spec = spec_for(whole, sampler="lms", steps=6)
    assert pixels == hashes(render(open_engine(whole, spec.group(), settings, 2), [spec]))[0]


def test_a_single_file_checkpoint_draws_the_same(folder: Path) -> None:
    settings = _settings(
        folder,
        """
[models.file]
source = "model.safetensors"
config = "shapes64"
[models.alone]
source = "model.safetensors"
""",
    )
    built_in = _load(settings, "shapes64")
    save_file(checkpoint_of(built_in.components), folder.parent / "model.safetensors")
    loaded = _load(settings, "file")

    assert loaded.weights_digest != built_in.weights_digest
    assert loaded.facts == built_in.facts
    assert _picture(loaded, settings) == _picture(built_in, settings)
    with pytest.raises(ModelError, match="give config"):
        _load(settings, "alone")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SDXL's folder, and beside it `xl.safetensors`, the same weights in one file."""
    folder = save_sdxl(tmp_path_factory.mktemp("sdxl") / "xl-folder")
    settings = _settings(folder, '[models.xl-folder]\nsource = "xl-folder"\n')
    components = _load(settings, "xl-folder").components
    save_file(checkpoint_of(components), folder.parent / "xl.safetensors")
    return folder


def _sdxl_picture(model: Model, settings: Settings, refiner_start: float | None = None) -> bytes:
    values = {"width": 32, "height": 32, "steps": 2, "sampler": "euler"}
    spec = spec_for(model, **values, refiner_start=refiner_start)
    return hashes(render(open_engine(model, spec.group(), settings, 2), [spec]))[0]


def test_a_single_file_of_sdxl_draws_the_same(sdxl: Path) -> None:
    settings = _settings(
        sdxl,
        """
[models.xl-folder]
source = "xl-folder"
[models.xl]
source = "xl.safetensors"
config = "xl-folder"
""",
    )
    whole, file = _load(settings, "xl-folder"), _load(settings, "xl")

    assert file.facts == whole.facts
    assert file.components.keys() == whole.components.keys()
    assert file.weights_digest != whole.weights_digest
    assert _sdxl_picture(file, settings) == _sdxl_picture(whole, settings)


def test_a_single_file_has_its_refiner_from_elsewhere(sdxl: Path) -> None:
    save_refiner(sdxl.parent / "refiner")
    settings = _settings(
        sdxl,
        """
[models.whole]
source = "xl-folder"
parts = { refiner = { source = "refiner" } }
[models.file]
source = "xl.safetensors"
config = "xl-folder"
parts = { refiner = { source = "refiner" } }
""",
    )
    whole, file = _load(settings, "whole"), _load(settings, "file")
    assert file.components.keys() == whole.components.keys()
    assert _sdxl_picture(file, settings, 0.5) == _sdxl_picture(whole, settings, 0.5)
    assert _sdxl_picture(file, settings, 0.5) != _sdxl_picture(file, settings)


def test_a_single_file_takes_its_vae_from_elsewhere(sdxl: Path) -> None:
    checkpoint = load_file(sdxl.parent / "xl.safetensors")
    pruned = {key: value for key, value in checkpoint.items() if "first_stage" not in key}
    save_file(pruned, sdxl.parent / "pruned.safetensors")
    settings = _settings(
        sdxl,
        """
[models.xl-folder]
source = "xl-folder"
[models.pruned]
source = "pruned.safetensors"
config = "xl-folder"
[models.pruned.parts]
vae = { source = "xl-folder", subfolder = "vae" }
[models.incomplete]
source = "pruned.safetensors"
config = "xl-folder"
""",
    )
    whole, pieced = _load(settings, "xl-folder"), _load(settings, "pruned")
    assert _sdxl_picture(pieced, settings) == _sdxl_picture(whole, settings)
    with pytest.raises(ModelError, match="model incomplete: ") as caught:
        _load(settings, "incomplete")
    assert "\n" not in caught.value.message


def test_a_single_file_of_another_architecture_is_one_line(folder: Path, sdxl: Path) -> None:
    built_in = _load(Settings.load(device="cpu", dtype="fp32"), "shapes64")
    save_file(checkpoint_of(built_in.components), sdxl.parent / "small.safetensors")
    settings = _settings(
        sdxl, '[models.small]\nsource = "small.safetensors"\nconfig = "xl-folder"\n'
    )
    with pytest.raises(ModelError, match="is not what its config describes: ") as e:
        _load(settings, "small")
    assert "\n" not in e.value.message


def test_a_config_that_is_not_pulled_yet_is_told_and_never_fetched(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_hub(*args: object, **options: object) -> None:
        raise AssertionError("a worker fetches nothing")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", no_hub)
    revision = "0" * 40
    settings = _settings(
        folder,
        f"""
[models.hub]
source = "somebody/model"
revision = "{revision}"
[models.file]
source = "model.safetensors"
config = "hub"
""",
        model_cache=tmp_path,
    )
    built_in = _load(settings, "shapes64")
    save_file(checkpoint_of(built_in.components), folder.parent / "model.safetensors")
    with pytest.raises(ModelError, match="models pull"):
        _load(settings, "file")
    pulled = tmp_path / "models--somebody--model" / "snapshots" / revision
    shutil.copytree(folder, pulled)
    assert _picture(_load(settings, "file"), settings) == _picture(built_in, settings)


def test_a_vae_override_replaces_the_vae_alone(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    built_in = _load(Settings.load(device="cpu", dtype="fp32"), "shapes64")
    other = diffusers.AutoencoderKL.from_config(built_in.components["vae"].config)
    other.save_pretrained(folder.parent / "vae")
    settings = _settings(
        folder,
        '[models.other]\nsource = "copy"\n[models.other.parts]\nvae = { source = "vae" }\n',
    )
    model = _load(settings, "other")

    assert model.weights_digest != built_in.weights_digest
    for name in ("unet", "text_encoder"):
        ours, theirs = (m.components[name].state_dict() for m in (model, built_in))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert torch.equal(model.components["vae"].decoder.conv_in.weight, other.decoder.conv_in.weight)


def test_an_fp16_variant_is_chosen_where_it_is(folder: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    weights = mixed / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".fp16.safetensors"))
    settings = _settings(mixed, '[models.mixed]\nsource = "mixed"\nvariant = "fp16"\n')
    assert _picture(_load(settings, "mixed"), settings) == _picture(
        _load(settings, "shapes64"), settings
    )


def test_pickles_are_refused_with_what_converts_them(folder: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    weights = pickled / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    settings = _settings(pickled, '[models.pickled]\nsource = "pickled"\n')
    with pytest.raises(ModelError, match="save_pretrained"):
        _load(settings, "pickled")


def test_a_broken_file_is_one_line(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"not safetensors")
    settings = _settings(broken, '[models.broken]\nsource = "broken"\n')
    with pytest.raises(ModelError, match="model broken: ") as caught:
        _load(settings, "broken")
    assert "\n" not in caught.value.message


def test_warm_models_are_kept_and_the_oldest_goes(folder: Path) -> None:
    settings = _settings(
        folder,
        '[models.parts]\nsource = "copy"\n[models.parts.parts.scheduler]\nclass = "DDIMScheduler"\n'
        '[models.vae]\nsource = "copy"\n[models.vae.parts]\nvae = { source = "vae" }\n',
        warm_models=1,
    )
    registry = load_registry(settings)
    warm = WarmModels(settings)
    first = warm.get(registry.find("shapes64"))
    assert warm.get(registry.find("shapes64")) is first
    second = warm.get(registry.find("vae"))
    assert warm.digests == (second.weights_digest,)
    assert warm.get(registry.find("shapes64")) is not first


def test_the_device_and_precision_follow_the_settings() -> None:
    assert resolve_device(Settings.load(device="cpu")).type == "cpu"
    with pytest.raises(SettingsError, match="no device"):
        resolve_device(Settings.load(device="toaster"))
    automatic = Settings.load()
    assert resolve_precision(automatic, "fp16", "cpu") == "fp32"
    assert resolve_precision(automatic, "bf16", "cpu") == "bf16"
    assert resolve_precision(automatic, None, "cuda") == "fp16"
    assert resolve_precision(Settings.load(dtype="fp32"), "fp16", "cuda") == "fp32"
