"""Keys of requests: what they were before a field was added, and what changes them."""

from dataclasses import replace

import pytest

from imagemill.db.specs import Adapter, AddedModel, ImageSpec

PLAIN = ImageSpec(
    model="m",
    weights_digest="a" * 64,
    prompt="a red circle",
    seed=7,
    width=64,
    height=64,
    steps=20,
    guidance_scale=4.0,
    sampler="ddim",
)
FROM_PICTURE = replace(PLAIN, init_image="b" * 64, mask="c" * 64, strength=0.5)
ADAPTED = replace(PLAIN, adapters=(Adapter(name="x", digest="d" * 64, weight=0.5),))
CONTROLLED = replace(
    PLAIN,
    control_image="b" * 64,
    controlnet=AddedModel(name="canny", digest="e" * 64),
    control_scale=0.5,
    reference_image="c" * 64,
    ip_adapter=AddedModel(name="plain", digest="f" * 64),
    reference_scale=0.25,
    guidance_start=0.1,
    guidance_end=0.6,
)


@pytest.mark.parametrize(
    ("spec", "pixels", "request_key", "group"),
    [
        (PLAIN, "2bb4668f75d61924", "5f62a9278b3ca886", "68e50f077886f965"),
        (FROM_PICTURE, "a3d5a3afa3640ddb", "633c2f94d220499e", "68e50f077886f965"),
        (ADAPTED, "1c576ffd8c8e6f09", "71654243c3e80c0c", "218c8f31926e74a2"),
    ],
)
def test_keys_are_those_of_the_first_version(spec, pixels, request_key, group):
    assert spec.pixel_key().startswith(pixels)
    assert spec.request_key().startswith(request_key)
    assert spec.group_key().startswith(group)


def test_a_document_is_read_back():
    assert ImageSpec.from_document(CONTROLLED.document()) == CONTROLLED


@pytest.mark.parametrize(
    "change",
    [
        {"control_image": "d" * 64},
        {"controlnet": AddedModel(name="canny", digest="0" * 64)},
        {"control_scale": 1.0},
        {"reference_image": "d" * 64},
        {"ip_adapter": AddedModel(name="plain", digest="0" * 64)},
        {"reference_scale": 1.0},
        {"guidance_start": 0.0},
        {"guidance_end": 1.0},
    ],
)
def test_each_new_field_decides_pixels(change):
    assert replace(CONTROLLED, **change).pixel_key() != CONTROLLED.pixel_key()


def test_a_name_decides_no_pixels():
    renamed = replace(CONTROLLED, controlnet=AddedModel(name="edges", digest="e" * 64))
    assert renamed.pixel_key() == CONTROLLED.pixel_key()


def test_an_added_model_is_part_of_the_group():
    assert CONTROLLED.group()["controlnet"] == {"name": "canny", "digest": "e" * 64}
    assert CONTROLLED.group()["ip_adapter"]["scale"] == 0.25
    assert CONTROLLED.group_key() != PLAIN.group_key()


def test_guided_steps_are_counted_as_diffusers_guiders_count_them():
    spec = replace(PLAIN, guidance_start=0.1, guidance_end=0.6)
    assert [step for step in range(20) if spec.guided_at(step, 20)] == list(range(2, 12))
    assert all(PLAIN.guided_at(step, 7) for step in range(7))
    assert not replace(PLAIN, guidance_scale=1.0).guided_at(0, 7)
