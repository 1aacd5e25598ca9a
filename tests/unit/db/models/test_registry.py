"""The registry file: what it may say, and what is wrong with it in one line."""

from pathlib import Path

import pytest

from imagemill.db.errors import ModelError
from imagemill.db.models.components import license_of, weights_digest
from imagemill.db.models.facts import model_facts
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings

REVISION = "0123456789abcdef0123456789abcdef01234567"


def _settings(tmp_path: Path, text: str, **values: object) -> Settings:
    file = tmp_path / "models.toml"
    file.write_text(text)
    return Settings.load(models=file, model_cache=tmp_path / "cache", **values)


def test_shapes64_is_always_there() -> None:
    settings = Settings.load()
    entry = load_registry(settings).find("shapes64")
    facts = model_facts(entry)

    assert (facts.latent_scale, facts.default_size, facts.window) == (4, (64, 64), 32)
    assert facts.guided
    assert not facts.inpainting
    assert entry.defaults["sampler"] == "ddim"
    assert len(weights_digest(entry)) == 64


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    registry = load_registry(
        _settings(tmp_path, f'[models.a]\nsource="x/y"\nrevision="{REVISION}"')
    )
    with pytest.raises(ModelError, match="no model is called 'b'; registered: shapes64, a"):
        registry.find("b")
    with pytest.raises(ModelError, match="no adapter is called 'soft'; registered: none"):
        registry.find_adapter("soft")


JUDGE = '[scorers.x]\nkind = "judge"\nurl = "http://x"\nmodel = "m"\nquestion = "q"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[models.a", "models.toml"),
        ("[models.a]\n", "give a source or parts"),
        ('[models.a]\nsource = ""\n', r"models\.a\.source: an empty text; found ''"),
        ('[models.""]\nsource = "x"\n', r"models\.''\.\[key\]: an empty text"),
        ('[adapters]\nsoft = ""\n', r"adapters\.soft: an empty text is no file; found ''"),
        ('[controlnets.a]\nsource = ""\n', r"controlnets\.a\.source: an empty text"),
        ('[models.a.parts]\nvae = { source = "" }\n', "part vae: source: .*; found ''"),
        ('[models.a]\nsource = "x"\ndtype = "int8"\n', r"models\.a\.dtype: .*; found 'int8'"),
        ('[models.a]\nsource = "x/y"\n', "40 hex digits"),
        ('[models.a]\nsource = "x/y"\nrevision = "main"\n', "40 hex digits"),
        ('[models.a]\nsource = "x"\ncolour = 1\n', r"models\.a\.colour: no such key; allowed: so"),
        ('[models.a]\nsuorce = "x"\n', r"models\.a\.suorce: no such .* did you mean source\?$"),
        ('[model.a]\nsource = "x"\n', r"model: no such key; .* did you mean models\?$"),
        ('[controlnets.a]\nsorce = "x"\n', r"a\.sorce: no such key; .* did you mean source\?$"),
        (
            '[ip_adapters.a]\nsource = "x"\nimage_encoder = { sorce = "x" }\n',
            r"image_encoder\.sorce: no such key; allowed: source, revision, subfolder; did you",
        ),
        (
            '[models.a.parts]\nvae = { source = "x", varient = "fp16" }\n',
            r"part vae: varient: no such key; .* did you mean variant\?$",
        ),
        ('[models.a]\nsource = "x"\nparts = 5\n', r"models\.a\.parts: expected a table; found 5$"),
        ('[models.a]\nsource = "x"\nquantization = 5\n', "quantization: expected a text; found 5$"),
        ('[models.a]\nsource = "x"\nlicense = "MIT X"\n', "expected one word, such as apache-2.0"),
        ("[adapters]\nsoft = 5\n", r"adapters\.soft: expected a path, as a text; found 5$"),
        ('[scorers.x]\nkind = "clipp"\n', r"x\.kind: expected one of 'clip', .*; found 'clipp'$"),
        ('[scorers.x]\nmodel = "m"\n', r"x\.kind is missing; it is one of clip, aesthetic, cl"),
        ('[scorers.x]\nkind = "clip"\n', r"scorers\.x\.source is missing$"),
        ('[scorers.x]\nkind = "clip"\nsurce = "x"\n', r"x\.surce: no such key; .* mean source\?$"),
        (JUDGE + "parallel = 65\n", r"scorers\.x\.parallel: expected at most 64; found 65$"),
        (JUDGE + "retries = 2.5\n", r"x\.retries: expected a whole number; found 2\.5$"),
        (JUDGE + 'answer = "yes"\n', r"x\.answer: expected 'number' or 'text'; found 'yes'$"),
        (JUDGE + "most = 0\n", r"x\.most: expected more than 0; found 0$"),
        ('[models.a]\nsource = "x"\nkind = "magic"\n', "models.a.kind"),
        (
            '[models.a]\nsource = "x"\ndefaults = { stepz = 3 }\n',
            r"defaults\.stepz is not known; .*; did you mean steps\?$",
        ),
        ('[models.a]\nsource = "x"\ndefaults = { sampler = "best" }\n', "no sampler 'best'"),
        ('[models.a.parts]\nvae = { folder = "x" }\n', "part vae"),
        ('[models.a.parts]\nvae = { source = "x/y" }\n', "40 hex digits"),
    ],
)
def test_a_wrong_registry_says_where(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        load_registry(_settings(tmp_path, text))
    assert "\n" not in caught.value.message
    assert "Input " not in caught.value.message, "pydantic's own words"


@pytest.mark.parametrize(
    ("written", "words"),
    [(b"a = " + b"[" * 3000, "nested too deeply"), (b"\xe9", "byte 0xe9 at offset 0")],
)
def test_a_registry_that_is_no_text_is_one_line(written: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_bytes(written)
    with pytest.raises(ModelError, match=words):
        load_registry(Settings.load(models=file))
    file.write_bytes(b"\xef\xbb\xbf" + f'[models.a]\nsource = "{tmp_path}"\n'.encode())
    assert "a" in load_registry(Settings.load(models=file)).models


def test_a_missing_registry_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.toml: No such file"):
        load_registry(Settings.load(models=tmp_path / "none.toml"))


def test_what_is_not_here_is_told_apart(tmp_path: Path) -> None:
    shapes64 = load_registry(Settings.load()).find("shapes64").source
    settings = _settings(
        tmp_path,
        f'[models.hub]\nsource = "x/y"\nrevision = "{REVISION}"\n'
        '[models.folder]\nsource = "./nowhere"\n'
        '[models.file]\nsource = "./nothing.safetensors"\n'
        f'[models.taught]\nsource = "{shapes64}"\nembeddings = {{ "<a>" = "a.safetensors" }}\n',
    )
    registry = load_registry(settings)
    for name, words in (
        ("hub", "imagemill models pull hub"),
        ("folder", "no such folder"),
        ("file", "no such file"),
        ("taught", "embedding <a>: .*a.safetensors: no such file"),
    ):
        with pytest.raises(ModelError, match=words):
            weights_digest(registry.find(name))


def test_a_recorded_digest_counts_where_the_files_are_not(tmp_path: Path) -> None:
    digest = "ab" * 32
    settings = _settings(
        tmp_path, f'[models.a]\nsource="x/y"\nrevision="{REVISION}"\ndigest="{digest}"'
    )
    assert weights_digest(load_registry(settings).find("a")) == digest


def test_digests_are_remembered_but_not_believed_when_a_file_changes(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DModel"]}')
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"one")
    settings = _settings(tmp_path, '[models.m]\nsource = "m"\n')
    entry = load_registry(settings).find("m")
    first = weights_digest(entry)
    assert weights_digest(entry) == first
    weights.write_bytes(b"other")
    assert weights_digest(entry) != first


def test_adapters_come_from_the_folder_and_the_file(tmp_path: Path) -> None:
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    (adapters / "soft.safetensors").write_bytes(b"lora")
    (adapters / "old.bin").write_bytes(b"pickle")
    settings = _settings(
        tmp_path,
        '[adapters]\nnamed = "soft.safetensors"\nold = "old.bin"\ngone = "gone.safetensors"\n',
        adapters_folder=adapters,
    )
    registry = load_registry(settings)

    assert set(registry.adapters) == {"soft", "named", "old", "gone"}
    assert registry.find_adapter("soft").digest == registry.find_adapter("named").digest
    with pytest.raises(ModelError, match=r"not a \.safetensors file"):
        _ = registry.find_adapter("old").digest
    with pytest.raises(ModelError, match="No such file"):
        _ = registry.find_adapter("gone").digest


def test_a_licence_belongs_to_weights_and_not_to_a_name() -> None:
    registry = load_registry(Settings.load())
    digest = weights_digest(registry.find("shapes64"))
    assert license_of(registry, "shapes64", digest) == "apache-2.0"
    assert license_of(registry, "shapes64", "0" * 64) is None
    assert license_of(registry, "unheard-of", digest) is None


@pytest.mark.parametrize("text", ["", "two words", "-x", "a" * 65])
def test_a_licence_is_one_word(tmp_path: Path, text: str) -> None:
    file = tmp_path / "models.toml"
    file.write_text(f'[models.mine]\nsource = "."\nlicense = "{text}"\n')
    with pytest.raises(ModelError, match="license"):
        load_registry(Settings.load(models=file))
