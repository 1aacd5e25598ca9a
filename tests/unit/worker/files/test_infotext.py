"""The infotext, held against the layout and the regular expression that other tools read it by."""

import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imagemill.db.specs import Adapter, ImageSpec
from imagemill.worker.files.infotext import infotext, shortened
from tests.helpers.infotext import parse_infotext

# As A1111, Civitai and the ComfyUI loaders have it; a copy, so that ours can't drift unseen.
READERS = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')

DIGEST = "0123456789abcdef" * 4


def spec(**changes) -> ImageSpec:
    values = {
        "model": "shapes64",
        "weights_digest": DIGEST,
        "prompt": "a red circle",
        "seed": 7,
        "width": 512,
        "height": 768,
        "steps": 20,
        "guidance_scale": 7.0,
        "sampler": "euler_a",
    }
    return ImageSpec(**{**values, **changes})


def test_a_plain_picture_reads_as_a1111_writes_it():
    assert infotext(spec(negative_prompt="blurry, text"), version="0.1") == (
        "a red circle\n"
        "Negative prompt: blurry, text\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 7, Size: 512x768, "
        "Model hash: 0123456789, Model: shapes64, Version: imagemill 0.1"
    )


def test_the_negative_line_and_the_prompt_line_are_left_out_when_empty():
    assert infotext(spec(prompt=""), version="0.1").startswith("Steps: 20, ")


def test_keys_come_in_the_order_that_readers_know():
    text = infotext(
        spec(
            strength=0.75,
            clip_skip=2,
            guidance_scale=7.5,
            guidance_rescale=0.7,
            refiner_start=0.8,
            init_image=DIGEST,
            mask=DIGEST,
            sampler_options=(("eta", 0.5), ("timestep_spacing", "trailing")),
            adapters=(
                Adapter(name="ink, fine", digest=DIGEST, weight=0.8),
                Adapter(name="b", digest="f" * 64),
            ),
        ),
        version="0.1",
    )
    assert READERS.findall(text.split("\n")[-1]) == [
        ("Steps", "20"),
        ("Sampler", "Euler a"),
        ("CFG scale", "7.5"),
        ("Seed", "7"),
        ("Size", "512x768"),
        ("Model hash", "0123456789"),
        ("Model", "shapes64"),
        ("Denoising strength", "0.75"),
        ("Clip skip", "2"),
        ("Guidance rescale", "0.7"),
        ("Refiner switch at", "0.8"),
        ("Sampler options", r'"{\"eta\": 0.5, \"timestep_spacing\": \"trailing\"}"'),
        ("Init image hash", "0123456789"),
        ("Mask hash", "0123456789"),
        ("Lora hashes", '"ink, fine: 0123456789, b: ffffffffff"'),
        ("Lora weights", '"ink, fine: 0.8, b: 1"'),
        ("Version", "imagemill 0.1"),
    ]


@pytest.mark.parametrize(
    ("guidance", "written"), [(7.0, "7"), (1.5, "1.5"), (0.0, "0"), (7.123456789, "7.123456789")]
)
def test_guidance_is_written_without_a_tail_and_without_loss(guidance, written):
    parsed = parse_infotext(infotext(spec(guidance_scale=guidance), version="1"))
    assert parsed.parameters["CFG scale"] == written


@pytest.mark.parametrize(
    "model", ["sd: 1.5, pruned", "two\nlines", '"quoted"', " edge ", "猫 model", 'a "b" c', ""]
)
def test_awkward_values_survive_quoting(model):
    text = infotext(spec(model=model), version="1")
    assert parse_infotext(text).parameters["Model"] == model
    assert parse_infotext(text).parameters["Version"] == "imagemill 1"


def test_steps_and_colons_inside_the_prompt_stay_in_the_prompt():
    prompt = 'first\nSteps: 99, Sampler: DDIM, CFG scale: 1\n"third", a: b'
    parsed = parse_infotext(infotext(spec(prompt=prompt), version="1"))
    assert parsed.prompt == prompt
    assert parsed.parameters["Steps"] == "20"


def test_a_negative_line_inside_the_prompt_loses_no_text():
    # The format has no way to tell the two apart; what readers get in all is what was written.
    parsed = parse_infotext(
        infotext(spec(prompt="a\nNegative prompt: b", negative_prompt="c"), version="1")
    )
    assert parsed.prompt == "a"
    assert parsed.negative_prompt == "b\nNegative prompt: c"


def test_a_text_without_parameters_is_all_prompt():
    parsed = parse_infotext("a cat\nNegative prompt: dog\nSteps: many")
    assert (parsed.prompt, parsed.negative_prompt) == ("a cat", "dog\nSteps: many")
    assert parsed.parameters == {}


def writable(text: str) -> str:
    return re.sub("[\0\ud800-\udfff]", "\ufffd", text)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    prompt=st.text().filter(lambda t: "Negative prompt:" not in t),
    negative=st.text(),
    model=st.text(min_size=1),
)
@example(prompt="\n\n", negative="\n", model="x")
@example(prompt="\ud800\0", negative="Negative prompt: again", model='\\"')
@example(prompt="", negative="", model='"\0')
@example(prompt="\r\u2028\x85", negative=" lead", model="\u2028")
def test_prompts_and_values_round_trip(prompt, negative, model):
    text = infotext(spec(prompt=prompt, negative_prompt=negative, model=model), version="0.1")
    text.encode("utf-8")
    text.encode("utf-16-be")
    assert text.split("\n")[-1].startswith("Steps: ")
    assert len(READERS.findall(text.split("\n")[-1])) == 8
    parsed = parse_infotext(text)
    assert parsed.prompt == writable(prompt)
    assert parsed.negative_prompt == writable(negative)
    assert parsed.parameters["Model"] == writable(model)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(prompt=st.text(alphabet="a😀é\n", min_size=200, max_size=400))
def test_a_shortened_text_fits_and_keeps_its_parameters(prompt):
    text = infotext(spec(prompt=prompt), version="0.1")
    short = shortened(text, units=300)
    assert len(short.encode("utf-16-be")) <= 600
    head, _, parameters = short.rpartition("\n")
    assert head.endswith("…")
    assert prompt.startswith(head[:-1])
    assert parameters == text.rpartition("\n")[2]
    assert shortened(text, units=10_000) == text
