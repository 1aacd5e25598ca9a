"""Speed and memory settings: another environment each, the same picture but for its last bits."""

import pytest
import torch

from imagemill.db.errors import OutOfMemory, SettingsError
from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings
from imagemill.db.states import Outcome
from imagemill.worker.engine import Engine, Rendered
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from imagemill.worker.models.tuning import Tuning, choose_tuning
from imagemill.worker.reproducibility.certificate import certify
from tests.engine.pictures import Files, digest_of, scene
from tests.engine.rendering import hashes, pixels_of, render, spec_for
from tools.parity.oracle import worst_difference

TUNINGS = [
    {"attention": "math"},
    {"channels_last": True},
    {"fuse_projections": True},
    {"cpu_offload": True},
    {"vae_tiling": True},
]


def _opened(settings: Settings) -> tuple[Engine, Model]:
    model = load_model(load_registry(settings).find("shapes64"), settings=settings)
    return open_engine(model, spec_for(model).group(), settings, 2, inputs=Files(scene())), model


@pytest.mark.parametrize("values", TUNINGS, ids=str)
def test_a_tuning_is_another_environment_that_keeps_the_promise(
    values: dict[str, object], shapes64: Model, settings: Settings
) -> None:
    engine, model = _opened(settings.model_copy(update=values))
    spec = spec_for(model, sampler="dpmpp_2m", init_image=digest_of(scene()), strength=0.7)
    plain = open_engine(shapes64, spec.group(), settings, 2, inputs=Files(scene()))
    [tuned], [usual] = render(engine, [spec]), render(plain, [spec])

    assert engine.environment.fingerprint() != plain.environment.fingerprint()
    assert worst_difference(pixels_of(tuned), pixels_of(usual)) <= 2
    assert certify(engine, spec.group(), model_name="shapes64").holds


def test_an_attention_kernel_that_is_not_there_is_one_line(settings: Settings) -> None:
    chosen = settings.model_copy(update={"attention": "cudnn"})
    with pytest.raises(SettingsError, match="cpu has no kernel 'cudnn' for float32") as caught:
        _opened(chosen)
    assert "\n" not in caught.value.message


def test_what_rests_is_moved_only_when_it_is_used(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, model = _opened(settings.model_copy(update={"cpu_offload": True}))
    moves = []
    vae = model.components["vae"]
    move = vae.to
    monkeypatch.setattr(vae, "to", lambda *where: moves.append(where) or move(*where))
    render(engine, [spec_for(model, steps=5)])

    # Onto the device and back, for the one picture at the end.
    assert len(moves) == 2


def test_the_gpu_alone_chooses_channels_last() -> None:
    settings = Settings.load()
    assert choose_tuning(settings, torch.device("cpu")) == Tuning()
    assert choose_tuning(settings, torch.device("cuda")) == Tuning(channels_last=True)
    refused = settings.model_copy(update={"channels_last": False})
    assert choose_tuning(refused, torch.device("cuda")) == Tuning()


def test_a_decoder_out_of_memory_decodes_in_tiles(
    shapes64: Model, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_for(shapes64, steps=2)
    engine = open_engine(shapes64, spec.group(), settings, 2)
    vae = shapes64.components["vae"]
    decode = vae.decode

    def short_of_memory(latents: torch.Tensor, **arguments: object) -> object:
        if not vae.use_tiling:
            raise torch.OutOfMemoryError("no room")
        return decode(latents, **arguments)

    [expected] = render(engine, [spec])
    with monkeypatch.context() as patch:
        patch.setattr(vae, "decode", short_of_memory)
        [tiled] = render(engine, [spec])
    [after] = render(engine, [spec])

    assert isinstance(tiled, Rendered)
    assert tiled.outcome is Outcome.OK
    assert tiled.environment is not None
    assert tiled.environment.document()["vae_tiling"] is True
    assert worst_difference(tiled.pixels, pixels_of(expected)) <= 2
    assert hashes([after]) == hashes([expected])
    assert isinstance(after, Rendered)
    assert after.environment is None


def test_a_decoder_that_has_no_room_even_for_tiles_says_so(
    shapes64: Model, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_for(shapes64, steps=1)
    engine = open_engine(shapes64, spec.group(), settings, 2)
    engine.admit([(1, spec)])

    def no_room(*args: object, **arguments: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(shapes64.components["vae"], "decode", no_room)
    with pytest.raises(OutOfMemory):
        engine.step()
    assert engine.abandon() == [1]
    assert not shapes64.components["vae"].use_tiling


def test_an_fp16_decoder_that_overflows_is_retried_in_fp32(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, model = _opened(settings.model_copy(update={"dtype": "bf16"}))
    vae = model.components["vae"]
    decode = vae.decode

    def overflowing(latents: torch.Tensor, **arguments: object) -> object:
        [values] = decode(latents, **arguments)
        return [values if latents.dtype == torch.float32 else values * torch.inf]

    monkeypatch.setattr(vae, "decode", overflowing)
    [result] = render(engine, [spec_for(model, steps=2)])

    assert isinstance(result, Rendered)
    assert result.outcome is Outcome.OK
    assert result.environment is not None
    assert result.environment.document()["vae_dtype"] == "fp32"
    assert vae.dtype == torch.bfloat16
