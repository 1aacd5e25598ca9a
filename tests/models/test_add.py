"""`models add`: what a source is found to be, and the entry that it gets."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from imagemill.db.errors import ModelError
from imagemill.db.models.components import weights_digest
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.cli import cli
from imagemill.worker.models.pull import pull
from tests.models.hub import REVISION, Hub, folder_files, serving
from tools.small_models.families import build
from tools.small_models.guided import save_ddpm

BEFORE = """# Our models
[models.mine]   # the first
source = "./mine"

[adapters]
style = "style.safetensors"   # a LoRA
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders of models, by name."""
    folder = tmp_path_factory.mktemp("sources")
    built_in = load_registry(Settings.load()).find("shapes64").source
    assert built_in is not None
    build("flux_schnell").save_pretrained(folder / "flux")
    build("stable_diffusion_3").to(torch.bfloat16).save_pretrained(folder / "sd3", variant="bf16")
    save_ddpm(folder / "ddpm")
    save_ddpm(folder / "flat", flat=True)
    return {
        "shapes": Path(built_in),
        **{name: folder / name for name in ("flux", "sd3", "ddpm", "flat")},
    }


@pytest.fixture
def hub(sources: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    flux = folder_files(sources["flux"])
    repositories = {
        "black-forest-labs/FLUX.1-schnell": flux | {"copy/transformer/config.json": b"{}"},
        "team/gated": flux,
        "team/pickled": {name.replace(".safetensors", ".bin"): body for name, body in flux.items()},
        "team/lora": {"README.md": b"", "lora.safetensors": b""},
    }
    cards = {"black-forest-labs/FLUX.1-schnell": {"license": "apache-2.0"}}
    served = Hub(repositories=repositories, gated=frozenset({"team/gated"}), cards=cards)
    with serving(served) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "models.toml"
    file.write_text(BEFORE)
    monkeypatch.setenv("IMAGEMILL_MODELS", str(file))
    monkeypatch.setenv("IMAGEMILL_MODEL_CACHE", str(tmp_path / "cache"))
    return file


def _add(*words: str) -> tuple[int, str, str]:
    answer = CliRunner().invoke(cli, ["models", "add", *words])
    return answer.exit_code, answer.stdout, answer.stderr


def _entry(registry: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(registry.read_text())["models"][name]
    return found


def test_a_hub_id_is_pinned_and_can_be_pulled_and_nothing_else_changes(
    hub: Hub, registry: Path
) -> None:
    name = "black-forest-labs/FLUX.1-schnell"
    code, out, err = _add("flux", name, "--json")
    assert code == 0, err
    assert registry.read_text().startswith(BEFORE)
    assert _entry(registry, "flux") == {
        "source": name,
        "revision": REVISION,
        "kind": "generic",
        "dtype": "bf16",
        "license": "apache-2.0",
        "defaults": {"width": 1024, "height": 1024, "steps": 4, "guidance_scale": 1.0},
    }
    told = json.loads(out)
    assert (told["family"], told["pipeline"]) == ("flux_schnell", "FluxPipeline")
    body = hub.repositories[name]["transformer/diffusion_pytorch_model.safetensors"]
    assert {"part": "transformer", "class": "FluxTransformer2DModel", "bytes": len(body)} in told[
        "parts"
    ]
    # Of the weights only the header is asked for, and nothing lies in the cache yet.
    assert not [each for each in hub.served if "vae" in each and each.endswith(".safetensors")]
    assert not [each for each in hub.served if each.startswith("copy/")]
    settings = Settings.load()
    entry = load_registry(settings).find("flux")
    with pytest.raises(ModelError, match="models pull flux"):
        weights_digest(entry)
    assert pull(entry, settings, endpoint=hub.url).weights_digest == weights_digest(entry)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("shapes", {"dtype": "fp16"}),
        ("sd3", {"kind": "generic", "variant": "bf16", "dtype": "bf16"}),
        ("ddpm", {"kind": "unconditional"}),
        ("flat", {"kind": "unconditional"}),
    ],
)
def test_a_folder_gets_its_kind_and_precision(
    source: str, expected: dict[str, str], sources: Mapping[str, Path], registry: Path
) -> None:
    code, out, err = _add("new", str(sources[source]))
    assert code == 0, err
    entry = _entry(registry, "new")
    assert entry.pop("source") == str(sources[source])
    assert entry.pop("defaults")["width"] > 0
    assert entry == expected
    assert "[models.new]" in out
    weights_digest(load_registry(Settings.load()).find("new"))


def test_a_folder_beside_the_registry_is_written_as_a_relative_path(
    sources: Mapping[str, Path], registry: Path
) -> None:
    (registry.parent / "ddpm").symlink_to(sources["ddpm"])
    save_ddpm(registry.parent / "cats")
    assert _add("cats", str(registry.parent / "cats"))[0] == 0
    assert _entry(registry, "cats")["source"] == "./cats"


def test_a_single_file_needs_a_config_and_takes_its_defaults(
    sources: Mapping[str, Path], registry: Path
) -> None:
    file = registry.parent / "checkpoint.safetensors"
    save_file({"model.diffusion_model.out.2.bias": torch.zeros(4)}, file)
    code, _, err = _add("one", str(file))
    assert code == 2
    assert "give --like" in err
    assert _add("one", str(file), "--like", "shapes64")[0] == 0
    entry = _entry(registry, "one")
    assert (entry["source"], entry["config"]) == ("./checkpoint.safetensors", "shapes64")
    assert entry["defaults"]["width"] == 64
    save_file({"lora.weight": torch.zeros(4)}, file)
    assert "not a checkpoint" in _add("two", str(file), "--like", "shapes64")[2]


def test_a_registry_that_is_not_there_is_made(
    sources: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new.toml"
    monkeypatch.setenv("IMAGEMILL_MODELS", str(file))
    assert _add("cats", str(sources["ddpm"]))[0] == 0
    assert list(tomllib.loads(file.read_text())["models"]) == ["cats"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mine", "{ddpm}"), "mine is registered already"),
        (("shapes64", "{ddpm}"), "registered already"),
        (("a/b", "{ddpm}"), "no name of a model"),
        (("new", "/no/such/folder"), "no such folder"),
        (("new", "{ddpm}", "--revision", "main"), "a folder has no revision"),
        (("new", "{ddpm}", "--variant", "fp16"), "no variant fp16; here: none"),
        (("new", "{ddpm}", "--like", "shapes64"), "--like is for one"),
        (("new", "team/none"), "no such model, or it is private"),
        (("new", "team/gated"), "is gated"),
        (("new", "team/pickled"), "only pickled weights"),
        (("new", "team/lora"), "not a model in diffusers' layout"),
        (("new", "black-forest-labs/FLUX.1-schnell", "--revision", "old"), "has no revision old"),
    ],
)
def test_what_can_not_be_added_is_one_line_and_changes_nothing(
    words: tuple[str, ...], said: str, hub: Hub, sources: Mapping[str, Path], registry: Path
) -> None:
    code, out, err = _add(*(word.format(ddpm=sources["ddpm"]) for word in words))
    assert code == 2
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
    assert registry.read_text() == BEFORE
    assert [path.name for path in registry.parent.iterdir()] == [registry.name]


def test_a_registry_that_can_not_be_continued_stays_as_it_is(
    sources: Mapping[str, Path], registry: Path
) -> None:
    before = "models = { mine = { source = './x' } }\n"
    registry.write_text(before)
    code, _, err = _add("new", str(sources["ddpm"]))
    assert code == 2
    assert f"nothing was written: the model registry {registry}" in err
    assert registry.read_text() == before


def test_without_a_registry_file_it_says_which_to_set(
    sources: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMAGEMILL_MODELS", raising=False)
    assert "IMAGEMILL_MODELS" in _add("new", str(sources["ddpm"]))[2]


def test_the_list_says_what_each_model_can_do(sources: Mapping[str, Path], registry: Path) -> None:
    assert _add("flux", str(sources["flux"]))[0] == 0
    answer = CliRunner().invoke(cli, ["models", "list", "--json"])
    listed = {model["model"]: model for model in json.loads(answer.stdout)["models"]}
    flux, shapes, mine = listed["flux"], listed["shapes64"], listed["mine"]
    assert (flux["family"], flux["lora"]) == ("flux_schnell", "yes")
    ways = ["text-to-image", "image-to-image", "inpainting", "control-image", "reference-image"]
    assert flux["ways"] == ways
    assert "compile_regions" in flux["speed"]
    assert flux["bytes"] == sum(flux["parts"].values()) > 0
    assert (shapes["license"], shapes["width"]) == ("apache-2.0", 64)
    assert shapes["ways"] == ["text-to-image", "image-to-image", "inpainting"]
    assert "no such folder" in mine["problem"]
    plain = CliRunner().invoke(cli, ["models", "list"])
    assert plain.exit_code == 0
    assert "flux_schnell" in plain.stdout
