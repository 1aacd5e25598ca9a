"""A picture through the autoencoder and back, with noise and without."""

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from imagemill.db.errors import ModelError, UsageError
from imagemill.db.samplers.names import strength_for
from imagemill.worker.cli.pictures import roundtrip
from imagemill.worker.engine.guided.initial_latents import InitialLatents
from imagemill.worker.engine.pictures import Decoder
from imagemill.worker.engine.schedulers import make_scheduler
from imagemill.worker.models.model import Model
from imagemill.worker.reproducibility.roundtrip import RoundTrip, round_trip
from tests.engine.rendering import spec_for
from tests.helpers.places import ROOT

CIRCLE = ROOT / "examples" / "inputs" / "circle.png"


def trip(shapes64: Model, **changes: object) -> RoundTrip:
    arguments = {
        "width": 64,
        "height": 64,
        "sampler": "lms",
        "steps": 15,
        "start_step": 10,
        "seed": 3,
    }
    return round_trip(shapes64, Image.open(CIRCLE).convert("RGB"), **(arguments | changes))


def test_the_autoencoder_keeps_most_and_noise_takes_the_more_the_earlier_it_is(shapes64):
    late, middle, early = (trip(shapes64, start_step=step) for step in (14, 10, 5))
    assert np.array_equal(late.original, np.asarray(Image.open(CIRCLE).convert("RGB")))
    assert late.decoded_psnr > 30
    assert late.decoded_psnr == middle.decoded_psnr == early.decoded_psnr
    assert late.decoded_psnr > late.noised_psnr > middle.noised_psnr > early.noised_psnr
    assert late.timestep < middle.timestep < early.timestep
    assert late.latents == (4, 16, 16)


def test_the_noise_is_that_from_which_a_variation_starts(shapes64, settings):
    spec = spec_for(
        shapes64,
        sampler="lms",
        steps=15,
        strength=strength_for(steps=15, start_step=10),
        init_image="0" * 64,
        seed=3,
    )
    scheduler = make_scheduler("lms", {}, model_config=shapes64.scheduler_config, seed=3)
    scheduler.set_timesteps(15)
    initial_latents = InitialLatents(
        shapes64, width=64, height=64, inputs=lambda _: CIRCLE.read_bytes(), max_pixels=4096
    )
    with torch.inference_mode():
        start = initial_latents.start(spec, scheduler, torch.Generator("cpu").manual_seed(3))
        expected = Decoder(shapes64, rows=1).pictures([start.latents])[0].pixels
    assert np.array_equal(trip(shapes64).noised, expected)


def test_an_autoencoder_that_is_kept_more_exact_than_the_model_is_given_what_it_wants(shapes64):
    """SDXL's in fp16: the model's halves would not fit its autoencoder's fp32."""
    expected = trip(shapes64)
    result = trip(replace(shapes64, precision="bf16"))
    assert result.latents == expected.latents
    assert result.decoded_psnr == pytest.approx(expected.decoded_psnr, abs=1.0)
    assert result.noised_psnr == pytest.approx(expected.noised_psnr, abs=1.0)


def test_an_autoencoder_kept_in_main_memory_is_on_the_device_while_it_is_used(
    shapes64, monkeypatch
):
    expected = trip(shapes64)
    vae = shapes64.components["vae"]
    there = []

    @contextmanager
    def using(self, name):
        there.append(name)
        yield self.components[name]
        there.remove(name)

    def watched(function):
        def call(*args, **values):
            assert there == ["vae"], "it is in main memory now"
            return function(*args, **values)

        return call

    monkeypatch.setattr(Model, "using", using)
    monkeypatch.setattr(vae, "encode", watched(vae.encode))
    monkeypatch.setattr(vae, "decode", watched(vae.decode))
    assert np.array_equal(trip(shapes64).noised, expected.noised)


@pytest.mark.parametrize("sampler", ["ddim", "heun", "euler_a", "dpmpp_2m_karras", "unipc"])
def test_every_kind_of_schedule_has_that_step(shapes64, sampler):
    result = trip(shapes64, sampler=sampler)
    assert 50 < result.timestep < 400
    assert result.decoded_psnr > result.noised_psnr


def test_what_does_not_fit_is_refused(shapes64):
    with pytest.raises(UsageError, match="0 to 14"):
        trip(shapes64, start_step=15)
    with pytest.raises(UsageError, match="multiples of 4"):
        trip(shapes64, width=63)
    without = type(shapes64)(
        **{name: getattr(shapes64, name) for name in shapes64.__slots__ if name != "components"},
        components={"unet": shapes64.components["unet"]},
    )
    with pytest.raises(ModelError, match="no autoencoder"):
        trip(without)


def test_the_command_writes_the_strip_and_says_the_numbers(tmp_path):
    output = tmp_path / "strip.png"
    done = CliRunner().invoke(roundtrip, [str(CIRCLE), "-o", str(output), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.output.splitlines()[-1])
    assert (said["model"], said["width"], said["height"]) == ("shapes64", 64, 64)
    assert said["decoded_psnr"] > said["noised_psnr"]
    with Image.open(output) as strip:
        assert strip.size == (192, 64)
    told = CliRunner().invoke(roundtrip, [str(CIRCLE), "--sampler", "LMS"])
    assert "step 10 of 15" in told.output
    wrong = CliRunner().invoke(roundtrip, [str(CIRCLE), "--sampler", "magic"])
    assert wrong.exit_code == 2


def test_a_strip_is_no_other_file_and_not_the_picture_itself(tmp_path):
    picture = tmp_path / "circle.png"
    picture.write_bytes(CIRCLE.read_bytes())
    (tmp_path / "cut.png").write_bytes(CIRCLE.read_bytes()[:300])
    for words, says in (
        ([str(picture), "-o", str(picture)], "this is the picture itself"),
        ([str(picture), "-o", str(tmp_path / "strip.txt")], "strip.txt: pictures can be written"),
        ([str(tmp_path / "cut.png")], "cut.png: not a readable image"),
    ):
        refused = CliRunner().invoke(roundtrip, words)
        assert isinstance(refused.exception, UsageError)
        assert says in str(refused.exception)
    assert picture.read_bytes() == CIRCLE.read_bytes()
