"""Pulling from a Hub: only what is loaded, at the pinned revision, with one line for what fails."""

import errno
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.utils import _http

from imagemill.db.errors import ModelError
from imagemill.db.models.components import weights_digest
from imagemill.db.models.hub_errors import asking_the_hub
from imagemill.db.models.registry import ModelEntry, load_registry
from imagemill.db.models.registry_file import record_digest
from imagemill.db.settings import Settings
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.pull import pull, pull_added
from tests.models.hub import REVISION, Hub, folder_files, serving
from tests.unit.scheduler_jobs.cli.test_every_command import answers

REGISTRY = f"""
[models.small]
source = "team/small"
revision = "{REVISION}"

[models.composed]
revision = "{REVISION}"
source = "team/small"
[models.composed.parts]
vae = {{ source = "team/vae", revision = "{REVISION}" }}

[models.secret]
source = "team/gated"
revision = "{REVISION}"

[models.gone]
source = "team/gone"
revision = "{REVISION}"

[models.pickled]
source = "team/pickled"
revision = "{REVISION}"

[models.broken]
source = "team/broken"
revision = "{REVISION}"

[models.partial]
source = "team/partial"
revision = "{REVISION}"

[controlnets.edges]
source = "team/vae"
revision = "{REVISION}"

[ip_adapters.alike]
source = "team/small"
revision = "{REVISION}"
subfolder = "vae"
weights = "diffusion_pytorch_model.safetensors"
image_encoder = "text_encoder"

[ip_adapters.apart]
source = "team/small"
revision = "{REVISION}"
subfolder = "vae"
weights = "diffusion_pytorch_model.safetensors"
image_encoder = {{ source = "team/vae", revision = "{REVISION}" }}

[models.old]
source = "team/small"
revision = "{"f" * 40}"
"""


@pytest.fixture(scope="module")
def shapes64_files() -> dict[str, bytes]:
    source = load_registry(Settings.load()).find("shapes64").source
    assert source is not None
    return folder_files(Path(source))


@pytest.fixture
def hub(shapes64_files: dict[str, bytes]) -> Iterator[Hub]:
    small = shapes64_files | {
        "README.md": b"# small",
        "small-full.ckpt": b"pickle",
        "unet/diffusion_pytorch_model.bin": b"pickle",
        "unet/diffusion_pytorch_model.fp16.safetensors": b"other precision",
        "safety_checker/model.safetensors": b"not wanted",
        "unet_onnx/config.json": b"{}",
        "checkpoint-500/unet/diffusion_pytorch_model.safetensors": b"not wanted",
    }
    vae = {
        name.removeprefix("vae/"): body
        for name, body in shapes64_files.items()
        if name.startswith("vae/")
    }
    pickled = {name: body for name, body in small.items() if not name.endswith(".safetensors")}
    repositories = {
        "team/small": small,
        "team/vae": vae,
        "team/gated": small,
        "team/pickled": pickled,
        "team/broken": small | {"model_index.json": b"[]"},
        "team/partial": {
            name: body for name, body in small.items() if not name.startswith("scheduler/")
        },
    }
    with serving(Hub(repositories=repositories, gated=frozenset({"team/gated"}))) as hub:
        yield hub


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = tmp_path / "models.toml"
    file.write_text(REGISTRY)
    return Settings.load(models=file, model_cache=tmp_path / "cache", device="cpu", dtype="fp32")


PLACES = {
    "a file for the cache": lambda place: place.write_text("a file"),
    "a file above the cache": lambda place: place.parent.write_text("a file"),
    "a cache that can only be read": lambda place: place.mkdir(mode=0o555),
    "no permission for the cache": lambda place: place.mkdir(mode=0),
    "a cache of a long name": lambda place: None,
}


def _pull_into(place: Path, config: Path, settings: Settings) -> list[str]:
    """The command that pulls a model into a cache, which a file of settings names."""
    config.write_text(f"models = '{settings.models}'\nmodel_cache = '{place}'\n")
    return ["--config", str(config), "models", "pull", "small"]


def test_a_cache_that_cannot_be_written_is_one_line(
    hub: Hub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    commands = []
    for trouble, make in PLACES.items():
        above = tmp_path / trouble
        place = above / ("n" * 300 if "long" in trouble else "models")
        if trouble != "a file above the cache":
            above.mkdir()
        make(place)
        commands.append(_pull_into(place, tmp_path / f"{trouble}.toml", settings))
    told = answers(commands, powerless=True)
    for trouble, (_, code, err) in zip(PLACES, told, strict=True):
        assert code == 2, f"{trouble}: {err}"
        assert "Hub" not in err.splitlines()[-1], trouble


def test_a_disk_that_is_full_is_one_line(
    hub: Hub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    command = _pull_into(tmp_path / "models", tmp_path / "settings.toml", settings)
    ((_, code, err),) = answers([command], most_bytes=4096)
    assert code == 3, err
    assert err.splitlines()[-1].startswith(f"error: {tmp_path / 'models'}")
    assert "Hub" not in err.splitlines()[-1]


def test_a_full_disk_is_none_of_the_hub_s_silence() -> None:
    """As hf_xet tells it, whose errors are those of Rust."""
    with pytest.raises(OSError, match="No space left") as full, asking_the_hub("here", None):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert full.value.errno == errno.ENOSPC


def test_a_registry_that_cannot_be_written_stays_as_it_is(
    hub: Hub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.models is not None
    before = settings.models.read_text()
    (tmp_path / "cache").mkdir()
    tmp_path.chmod(0o555)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("IMAGEMILL_MODELS", str(settings.models))
    monkeypatch.setenv("IMAGEMILL_MODEL_CACHE", str(settings.model_cache))
    ((_, code, _),) = answers([["models", "pull", "small"]], powerless=True)
    tmp_path.chmod(0o755)
    assert code == 0
    assert settings.models.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "models.toml"]


def _entry(name: str, settings: Settings) -> ModelEntry:
    return load_registry(settings).find(name)


def test_a_pulled_model_loads_and_has_its_digest(hub: Hub, settings: Settings) -> None:
    entry = _entry("small", settings)
    with pytest.raises(ModelError, match="imagemill models pull small"):
        weights_digest(entry)

    pulled = pull(entry, settings, endpoint=hub.url)

    assert not [name for name in hub.served if name.endswith((".bin", ".ckpt"))]
    assert not [name for name in hub.served if "fp16" in name or "safety" in name]
    # Only what the index names: a repository holds exports and training runs beside it.
    assert not [name for name in hub.served if "onnx" in name or "checkpoint-" in name]
    model = load_model(entry, settings=settings)
    assert model.weights_digest == pulled.weights_digest
    assert pulled.weights_digest == weights_digest(load_registry(settings).find("shapes64"))
    hub.served.clear()
    assert pull(entry, settings, endpoint=hub.url) == pulled
    assert hub.served == []


def test_a_composed_model_is_pulled_from_all_its_places(hub: Hub, settings: Settings) -> None:
    entry = _entry("composed", settings)
    pulled = pull(entry, settings, endpoint=hub.url)

    assert "diffusion_pytorch_model.safetensors" in hub.served
    assert "vae/diffusion_pytorch_model.safetensors" not in hub.served
    assert load_model(entry, settings=settings).weights_digest == pulled.weights_digest


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("secret", "team/gated is gated: .*HF_TOKEN"),
        ("gone", "there is no such model, or it is private"),
        ("pickled", "only pickled weights"),
        ("broken", "team/broken: model_index.json can't be read"),
        ("partial", "team/partial has no folder scheduler"),
        ("old", "has no revision ffffffffff"),
    ],
)
def test_what_can_not_be_pulled_says_so_in_one_line(
    name: str, words: str, hub: Hub, settings: Settings
) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        pull(_entry(name, settings), settings, endpoint=hub.url)
    assert "\n" not in caught.value.message


def test_a_token_opens_a_gated_model(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert pull(_entry("secret", settings), settings, endpoint=hub.url).files > 0


def test_offline_a_missing_model_is_one_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The Hub's library tries six times, with 23 s of pauses between.
    waited: list[float] = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=waited.append))
    with pytest.raises(ModelError, match="the Hub can't be reached") as caught:
        pull(_entry("small", settings), settings, endpoint="http://127.0.0.1:9")
    assert "\n" not in caught.value.message
    assert waited, "it gives up at the first failure"


def test_weights_that_are_not_what_was_recorded_are_refused(hub: Hub, settings: Settings) -> None:
    entry = _entry("small", settings)
    pulled = pull(entry, settings, endpoint=hub.url)
    assert settings.models is not None
    assert record_digest(settings.models, "small", pulled.weights_digest)
    recorded = _entry("small", settings)
    assert recorded.digest == pulled.weights_digest
    assert load_model(recorded, settings=settings).weights_digest == pulled.weights_digest
    # Once it stands there it is compared, never overwritten.
    assert not record_digest(settings.models, "small", "0" * 64)
    with pytest.raises(ModelError, match="pull it again, or correct the registry"):
        weights_digest(replace(recorded, digest="0" * 64))


def test_a_digest_is_the_first_line_of_its_table_and_nothing_else_changes(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    before = """# Our models
[models.small]   # the first
source = 'x'

# About the other one
[models."a.b"]
source = "y"  # where it comes from

[adapters.style]
path = "z"

[models.last]
[[models.last.embeddings]]
name = "e"
"""
    file.write_text(before)
    for name in ("small", "a.b", "last"):
        assert record_digest(file, name, "1" * 64)
        assert tomllib.loads(file.read_text())["models"][name]["digest"] == "1" * 64
    line = f'digest = "{"1" * 64}"\n'
    assert file.read_text().replace(line, "") == before
    assert f"# the first\n{line}source" in file.read_text()
    assert not record_digest(file, "small", "2" * 64)
    assert not record_digest(file, "none", "2" * 64)


def test_a_model_with_dotted_keys_is_left_to_the_reader_or_gets_its_digest(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    before = "[models]\nsmall.source = 'x'\nsmall.dtype = 'fp32'\n"
    file.write_text(before)
    recorded = record_digest(file, "small", "0" * 64)
    found = tomllib.loads(file.read_text())["models"]["small"]
    assert found.get("digest") == ("0" * 64 if recorded else None)
    assert (found["source"], found["dtype"]) == ("x", "fp32")


def test_a_model_without_its_own_table_is_left_to_the_reader(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text("[models]\nsmall = { source = 'x' }\n")
    assert not record_digest(file, "small", "0" * 64)
    assert file.read_text() == "[models]\nsmall = { source = 'x' }\n"


@pytest.mark.parametrize(
    ("table", "name", "files"),
    [
        ("controlnets", "edges", {"config.json", "diffusion_pytorch_model.safetensors"}),
        (
            "ip_adapters",
            "alike",
            {
                "vae/diffusion_pytorch_model.safetensors",
                "text_encoder/config.json",
                "text_encoder/model.safetensors",
            },
        ),
    ],
)
def test_what_stands_beside_a_model_is_pulled_too(
    table: str, name: str, files: set[str], hub: Hub, settings: Settings
) -> None:
    entry = getattr(load_registry(settings), table)[name]
    assert f"run `imagemill models pull {name}`" in str(entry.problem)
    pulled = pull_added(entry, endpoint=hub.url)
    found = {str(path.relative_to(entry.root)) for path in entry.root.rglob("*") if path.is_file()}
    assert found == files
    assert pulled.files == len(files)
    # What stands for it here is the small model's autoencoder, which the header tells.
    assert "136 tensors, such as decoder.conv_in.bias" in str(entry.problem)
    assert settings.models is not None
    assert record_digest(settings.models, name, pulled.weights_digest, table=table)
    again = getattr(load_registry(settings), table)[name]
    assert again.digest == pulled.weights_digest
    spoilt = replace(again, pinned="0" * 64)
    with pytest.raises(ModelError, match="pull it again"):
        _ = spoilt.digest


def test_an_image_encoder_of_another_repository_is_pulled_too(hub: Hub, settings: Settings) -> None:
    entry = load_registry(settings).ip_adapters["apart"]
    pulled = pull_added(entry, endpoint=hub.url)
    assert pulled.files == 3
    assert "136 tensors, such as decoder.conv_in.bias" in str(entry.problem)
    encoder = entry.encoder_folder
    assert encoder is not None
    assert encoder != entry.root
    assert {path.name for path in encoder.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    shutil.rmtree(encoder)
    assert "run `imagemill models pull apart`" in str(entry.problem)


@pytest.mark.parametrize(
    ("encoder", "complaint"),
    [
        ('{ source = "team/vae" }', "apart: image_encoder: team/vae needs revision"),
        ('{ source = "x", subfolder = "../y" }', "not a path inside the source"),
        ('"../y"', "not a path inside the source"),
    ],
)
def test_an_image_encoder_must_be_pinned_and_inside(
    encoder: str, complaint: str, tmp_path: Path
) -> None:
    file = tmp_path / "models.toml"
    table = '[ip_adapters.apart]\nsource = "ip"\nweights = "ip.safetensors"\n'
    file.write_text(f"{table}image_encoder = {encoder}\n")
    with pytest.raises(ModelError, match=complaint):
        load_registry(Settings.load(models=file))


def test_everything_of_a_name_is_pulled(
    hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.models is not None
    added = f'[controlnets.small]\nsource = "team/vae"\nrevision = "{REVISION}"\n'
    settings.models.write_text(settings.models.read_text() + added)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("IMAGEMILL_MODELS", str(settings.models))
    monkeypatch.setenv("IMAGEMILL_MODEL_CACHE", str(settings.model_cache))
    ((_, code, err),) = answers([["models", "pull", "small"]])
    assert code == 0, err
    # Both digests are in the registry, each in its own table.
    registry = load_registry(settings)
    tables = tomllib.loads(settings.models.read_text("utf-8"))
    assert tables["models"]["small"]["digest"] == weights_digest(registry.find("small"))
    digest = registry.find_controlnet("small").digest
    assert tables["controlnets"]["small"]["digest"] == digest
