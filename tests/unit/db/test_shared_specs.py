"""Requests that share all but prompt and seed have the keys of their whole specifications."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagemill.db.shared_specs import Request, SharedSpec
from imagemill.db.specs import METADATA_VERSION, Adapter, AddedModel
from tests.helpers.mill import spec

EXAMPLES = {
    "plain": spec("a"),
    "whole guidance": replace(spec("a"), guidance_scale=7),
    "texts like its own fields": replace(
        spec("a"), negative_prompt='","prompt":"b","seed":7,"', model='a "prompt":"",'
    ),
    "everything": replace(
        spec("a"),
        negative_prompt="żółć \\ \n",
        sampler_options=(("eta", 0.5), ("timestep_spacing", "trailing")),
        init_image="1" * 64,
        strength=0.5,
        adapters=(Adapter(name="sketch", digest="2" * 64, weight=0.5),),
        controlnet=AddedModel(name="canny", digest="3" * 64),
        ip_adapter=AddedModel(name="faces", digest="4" * 64),
        windows=3,
        long_prompts="chunk",
        prompt_weighting=True,
        refiner_start=0.8,
        format="jpeg",
        quality=80,
    ),
}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
@settings(max_examples=30, deadline=None)
@given(prompt=st.text(), seed=st.integers(0, 2**64 - 1))
def test_the_keys_are_those_of_the_whole_specification(name, prompt, seed):
    whole = replace(EXAMPLES[name], prompt=prompt, seed=seed)
    shared = SharedSpec(EXAMPLES[name])
    assert shared.spec(prompt, seed) == whole
    assert shared.request_keys(prompt, seed) == whole.request_keys()
    assert shared.group_key == whole.group_key()
    assert len(whole.request_keys()) == METADATA_VERSION


def test_a_request_of_a_specification_is_that_specification():
    for whole in EXAMPLES.values():
        assert Request.of(whole).spec() == whole
        assert Request.of(whole).keys() == whole.request_keys()
