"""Reading values, and layering them."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from imagemill.db.errors import ManifestError
from imagemill.scheduler_jobs.manifest import (
    AdapterChoice,
    BadValue,
    Limits,
    Parameters,
    parameters_from_flags,
    parameters_from_toml,
)
from imagemill.scheduler_jobs.manifest.problems import Problem, shown
from tests.unit.manifests import LIMITS, good_rows, problems


@pytest.mark.parametrize(
    ("field", "given", "read"),
    [
        ("steps", " 20 ", 20),
        ("steps", "20.0", 20),
        ("steps", 20.0, 20),
        ("guidance_scale", "7.5", 7.5),
        ("guidance_scale", "1e1", 10.0),
        ("guidance_scale", 7, 7.0),
        ("seed", "-1", -1),
        ("seed", 2**64 - 1, 2**64 - 1),
        ("seeds", "1, 2;3 4", (1, 2, 3, 4)),
        ("seeds", "[1, 2]", (1, 2)),
        ("seeds", [5], (5,)),
        ("sampler", "DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("sampler", "EulerAncestralDiscreteScheduler", "euler_a"),
        ("sampler", "PLMS", "pndm"),
        ("format", "JPG", "jpeg"),
        ("format", ".webp", "webp"),
        ("init_image", "cats/one.png", "cats/one.png"),
        ("init_image", "a" * 64, "a" * 64),
        ("mask", "s3://bucket/mask.png", "s3://bucket/mask.png"),
        ("prompt_weighting", "Yes", True),
        ("prompt_weighting", False, False),
        ("long_prompts", "CHUNK", "chunk"),
        ("sampler_options", '{"timestep_spacing": "trailing"}', {"timestep_spacing": "trailing"}),
        ("sampler_options", {"use_karras_sigmas": True}, {"use_karras_sigmas": True}),
        ("adapters", "a:0.5, b", (AdapterChoice(name="a", weight=0.5), AdapterChoice(name="b"))),
        ("adapters", [{"name": "a", "weight": -1}], (AdapterChoice(name="a", weight=-1.0),)),
    ],
)
def test_a_value_is_read_from_text_and_from_typed_data(field: str, given: Any, read: Any) -> None:
    value = getattr(Parameters.model_validate({field: given}, context=LIMITS), field)
    assert value == read
    assert type(value) is type(read)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("steps", True),
        ("steps", "1_000"),
        ("steps", "٢٠"),
        ("steps", "0x10"),
        ("steps", ""),
        ("steps", [20]),
        ("steps", 10**400),
        ("guidance_scale", "7,5"),
        ("guidance_scale", float("nan")),
        ("guidance_scale", 10**400),
        ("guidance_scale", "1e400"),
        ("guidance_scale", True),
        ("strength", 0),
        ("eta", 1.1),
        ("seed", 1.5),
        ("seed", "9" * 5000),
        ("seeds", {"a": 1}),
        ("seeds", [True]),
        ("seeds", "[1"),
        ("format", 5),
        ("sampler", 7),
        ("init_image", "C:\\cat.png"),
        ("init_image", "file:///etc/passwd"),
        ("sampler_options", [1]),
        ("sampler_options", '{"a": NaN}'),
        ("adapters", [["a", 1]]),
        ("adapters", "a:strong"),
        ("adapters", [{"name": "a", "strength": 1}]),
        ("model", "a\nb"),
    ],
)
def test_what_is_not_a_value_is_refused_in_one_line(field: str, given: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Parameters.model_validate({field: given}, context=LIMITS)
    (detail,) = caught.value.errors()
    bad = detail["ctx"]["error"]
    assert isinstance(bad, BadValue)
    assert str(Problem(file="f", found=bad.found, allowed=bad.allowed)).isprintable()


def test_the_layer_above_wins_and_ends_what_it_contradicts() -> None:
    lower = Parameters(steps=20, seed=1, samples=4, strength=0.5)
    assert Parameters().over(lower) == lower
    assert Parameters(steps=30).over(lower) == Parameters(steps=30, seed=1, samples=4, strength=0.5)
    assert Parameters(seeds=(1, 2)).over(lower) == Parameters(steps=20, seeds=(1, 2), strength=0.5)
    assert Parameters(start_step=3).over(lower).strength is None
    assert Parameters(seed=3, samples=2).over(Parameters(seeds=(8, 9))) == Parameters(
        seed=3, samples=2
    )
    assert (
        Parameters(negative_prompt="").over(Parameters(negative_prompt="x")).negative_prompt == ""
    )


def test_how_many_images() -> None:
    assert Parameters().count == 1
    assert Parameters(samples=4).count == 4
    assert Parameters(seeds=(1, 2, 3)).count == 3


def test_rows_are_checked_together_with_the_layers_below(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"prompt,seed,height\na cat,{2**64 - 2},\na dog,,4096\n")
    assert len(good_rows(path)) == 2
    defaults = Parameters(samples=4, width=8192)
    assert problems(path, defaults=defaults) == [
        f"rows.csv:1: seed {2**64 - 2} and 4 samples; seed + samples up to {2**64}",
        "rows.csv:2: 8192x4096 = 33,554,432 pixels; at most 16,777,216 pixels",
    ]


def test_flags_may_use_the_synonyms() -> None:
    flags = {"cfg": 3, "size": "64x128", "steps": None}
    assert parameters_from_flags(flags) == Parameters(guidance_scale=3, width=64, height=128)


def test_wrong_flags_are_all_reported() -> None:
    flags = {"steps": 0, "sampler": "eular", "colour": "red", "prompt": "x"}
    with pytest.raises(ManifestError) as caught:
        parameters_from_flags(flags, limits=LIMITS)
    lines = str(caught.value).splitlines()
    assert lines[0] == "command line: prompt: only a row has one; in the manifest"
    assert "command line: steps: 0; a whole number from 1 to 1000" in lines
    assert any(
        line.startswith("command line: colour: an unknown name; one of neg") for line in lines
    )
    assert len(lines) == 4


def test_a_toml_file_of_defaults(tmp_path: Path) -> None:
    path = tmp_path / "defaults.toml"
    path.write_text(
        'steps = 30\nsampler = "Euler a"\nguidance_scale = 5\n'
        '[sampler_options]\ntimestep_spacing = "trailing"\n'
    )
    assert parameters_from_toml(path, limits=LIMITS) == Parameters(
        steps=30,
        sampler="euler_a",
        guidance_scale=5,
        sampler_options={"timestep_spacing": "trailing"},
    )


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("steps = 0\n", "steps: 0; a whole number from 1 to 1000"),
        ("steps = inf\n", "steps: Infinity; a whole number from 1 to 1000"),
        ("cfg = true\n", "cfg: true; a number from 0 to 100 (IMAGEMILL_MAX_GUIDANCE_SCALE)"),
        ("steps = \n", "not TOML"),
        (f"steps = {'9' * 5_000}\n", "a number of thousands of digits; one of fewer digits"),
        ("steps = 1\nsteps = 2\n", "not TOML"),
        ("step = 1\nsteps = 2\n", "steps: steps is given twice; once"),
        ("seed = 1979-05-27\n", 'seed: "1979-05-27"; a whole number from 0'),
    ],
)
def test_a_wrong_toml_file_is_one_clear_line(content: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "defaults.toml"
    path.write_text(content)
    with pytest.raises(ManifestError) as caught:
        parameters_from_toml(path, limits=LIMITS)
    assert str(caught.value).startswith(f"{path}: {line}")
    assert "\n" not in str(caught.value)


def test_a_toml_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"defaults\.toml: no such file"):
        parameters_from_toml(tmp_path / "defaults.toml")


def test_limits_are_settings() -> None:
    tight = Limits(
        max_pixels=64 * 64,
        max_steps=10,
        max_samples=2,
        max_prompt_bytes=5,
        max_line_bytes=100,
        max_rows=1,
    )
    for flags in (
        {"steps": 11},
        {"samples": 3},
        {"width": 72, "height": 64},
        {"seeds": [1, 2, 3]},
        {"negative_prompt": "äöü"},
        {"start_step": 11},
    ):
        with pytest.raises(ManifestError):
            parameters_from_flags(flags, limits=tight)
        assert parameters_from_flags(flags, limits=LIMITS).settings()


def test_what_is_shown_is_short_and_printable() -> None:
    assert shown("a" * 1000) == '"' + "a" * 79 + "…"
    assert shown("\x1b[31m\u202e\ud800") == '"\\u001b[31m\\u202e\\ud800"'
    assert (
        str(Problem(file="a\nb", row=3, column="c", found="d", allowed="e")) == "a\\nb:3: c: d; e"
    )
    assert str(Problem(file="a", line=3, found="d", allowed="e")) == "a: line 3: d; e"


def test_minus_zero_is_zero_since_the_picture_is_the_same() -> None:
    given = Parameters.model_validate({"guidance_scale": "-0.0", "eta": -0.0})
    assert (str(given.guidance_scale), str(given.eta)) == ("0.0", "0.0")


@pytest.mark.parametrize(
    ("field", "given", "key"),
    [
        ("sampler_options", '{"shift": 1, "shift": 2}', "shift"),
        ("adapters", '[{"name": "a", "weight": 1, "name": "b"}]', "name"),
    ],
)
def test_a_key_twice_in_the_json_of_a_cell_is_refused(field: str, given: str, key: str) -> None:
    with pytest.raises(ManifestError, match=f'{field}: key "{key}" twice; every key once'):
        parameters_from_flags({field: given})
