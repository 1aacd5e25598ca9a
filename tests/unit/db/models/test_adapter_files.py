"""Files beside a model are what the registry calls them, as far as their headers say."""

from pathlib import Path

import pytest

from imagemill.db.errors import ModelError
from imagemill.db.models.adapter_files import check_controlnet, check_ip_adapter, check_lora
from imagemill.db.models.headers import read_shapes
from tests.helpers.tensors import CONTROLNET, IP_ADAPTER, LORA, write_tensors

FORMS = {
    "peft": "base_model.model.transformer_blocks.0.attn.to_q.lora_A.weight",
    "diffusers": "unet.down_blocks.0.attentions.0.attn1.to_q.lora.down.weight",
    "old diffusers": "mid_block.attn1.processor.to_q_lora.down.weight",
    "kohya": "lora_unet_down_blocks_0_attentions_0_attn1_to_q.lora_down.weight",
    "kohya's text encoder": "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
    "text encoder": "text_encoder.text_model.layers.0.q_proj.lora_linear_layer.up.weight",
    "XLabs": "double_blocks.0.processor.proj_lora1.down.weight",
    "original": "diffusion_model.layers.0.attention.to_q.lora_B.default.weight",
    "LoKr": "diffusion_model.layers.0.attention.to_q.lokr_w1",
}


def test_the_shapes_are_those_that_safetensors_reads(tmp_path: Path) -> None:
    numpy, safetensors = pytest.importorskip("numpy"), pytest.importorskip("safetensors.numpy")
    file = tmp_path / "file.safetensors"
    tensors = {"a": numpy.zeros((2, 3)), "b": numpy.zeros(())}
    safetensors.save_file(tensors, file, metadata={"by": "us"})
    assert read_shapes(file) == {"a": (2, 3), "b": ()}
    ours = write_tensors(tmp_path / "ours.safetensors", {"a": (2, 3)})
    assert safetensors.load_file(ours)["a"].shape == (2, 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a safetensors file"),
        (b"a LoRA", "not a safetensors file"),
        (b"PK\x03\x04" + bytes(100), "not a safetensors file"),
        (b"\x02" + bytes(7) + b"[]", "not a safetensors file"),
        (b"\x0a" + bytes(7) + b'{"a": "b"}', "not a safetensors file"),
    ],
)
def test_other_files_are_none(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "file.safetensors"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=said):
        check_lora(file)


def test_a_file_that_was_cut_short_is_said_to_be(tmp_path: Path) -> None:
    file = write_tensors(tmp_path / "lora.safetensors", LORA)
    check_lora(file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match=rf"{len(whole) - 1:,} bytes of {len(whole):,}: .* short"):
        check_lora(file)


@pytest.mark.parametrize("form", FORMS)
def test_a_lora_of_any_form_is_known(tmp_path: Path, form: str) -> None:
    check_lora(write_tensors(tmp_path / "lora.safetensors", {FORMS[form]: (4, 8)}))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"conv_in.weight": (1,), "down_blocks.0.weight": (1,)}, "2 tensors, such as conv_in.weig"),
        ({"lora_unet_down_blocks_0.hada_w1_a": (1,)}, "one tensor, lora_unet_down_blocks_0.hada"),
        ({}, "no tensors"),
    ],
)
def test_what_is_no_lora_is_named(tmp_path: Path, names: dict[str, tuple[int]], said: str) -> None:
    file = write_tensors(tmp_path / "model.safetensors", names)
    with pytest.raises(ModelError) as error:
        check_lora(file)
    assert f"{file}: no LoRA: {said}" in error.value.message
    assert error.value.message.endswith("names of a LoRA have lora_A, lora_down or lora.down")


def test_an_ip_adapter_has_a_projection_and_attention(tmp_path: Path) -> None:
    check_ip_adapter(write_tensors(tmp_path / "ip.safetensors", IP_ADAPTER))
    for missing in IP_ADAPTER:
        names = {name: shape for name, shape in IP_ADAPTER.items() if name != missing}
        file = write_tensors(tmp_path / "half.safetensors", names)
        with pytest.raises(ModelError, match=rf"no IP-Adapter: .*{missing.partition('.')[0]}\."):
            check_ip_adapter(file)


def test_a_controlnet_may_lie_in_several_files(tmp_path: Path) -> None:
    shards = [
        write_tensors(tmp_path / "1.safetensors", {"conv_in.weight": (1,)}),
        write_tensors(tmp_path / "2.safetensors", CONTROLNET),
    ]
    check_controlnet(shards)
    with pytest.raises(ModelError, match=r"no ControlNet: one tensor, conv_in\.weight"):
        check_controlnet(shards[:1])
