"""Quantised weights: models of their own, loaded as diffusers loads them."""

from pathlib import Path
from typing import Any

import diffusers
import gguf
import numpy as np
import pytest
import torch
from torchao.quantization import Float8Tensor, Int8Tensor, Int8WeightOnlyConfig

from imagemill.db.errors import ModelError
from imagemill.db.models.components import weights_digest
from imagemill.db.models.registry import load_registry
from imagemill.worker.engine.factory import open_engine
from imagemill.worker.models.loader import load_model
from imagemill.worker.models.model import Model
from imagemill.worker.models.pull import pull
from tests.engine.rendering import pixels_of, render
from tests.models.hub import REVISION, Hub, serving
from tests.oracle.registered import Shop, spec_of, table_of
from tools.parity.oracle import worst_difference
from tools.parity.pipeline_oracle import PipelineOracle

FAMILY = "flux_schnell"
GGUF_FAMILY = "qwen_image"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("families"), slots=2)
    shop.saved(FAMILY)
    shop.saved(GGUF_FAMILY)
    return shop


def _quantised(shop: Shop, quantization: str) -> Model:
    shop.register(table_of("small", FAMILY), f"quantization = {quantization}")
    return shop.load("small")


def _drawn(shop: Shop, model: Model) -> Any:
    spec = spec_of(model)
    engine = open_engine(model, spec.group(), shop.settings)
    [result] = render(engine, [spec])
    return pixels_of(result)


def _expected(family: str, pipeline: Any, model: Model) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return PipelineOracle(family, pipeline).alone(spec_of(model))


def test_int8_weights_draw_what_diffusers_draws_and_are_another_model(shop: Shop) -> None:
    model = _quantised(shop, '"int8"')
    assert isinstance(model.pipeline.transformer.transformer_blocks[0].attn.to_q.weight, Int8Tensor)
    config = diffusers.TorchAoConfig(Int8WeightOnlyConfig())
    pipeline = diffusers.FluxPipeline.from_pretrained(
        shop.saved(FAMILY),
        quantization_config=diffusers.PipelineQuantizationConfig(
            quant_mapping={"transformer": config}
        ),
        dtype=torch.float32,
        local_files_only=True,
    )
    drawn = _drawn(shop, model)
    assert worst_difference(drawn, _expected(FAMILY, pipeline, model)) <= 1
    plain = shop.model(FAMILY)
    assert worst_difference(drawn, _drawn(shop, plain)) > 0
    assert model.weights_digest != plain.weights_digest
    assert model.tuning.fields()["quantization"].startswith("denoiser int8 (torchao ")


def test_a_component_of_transformers_is_quantised_too(shop: Shop) -> None:
    model = _quantised(shop, '{ text_encoder_2 = "int8" }')
    weights = {type(each) for each in model.pipeline.text_encoder_2.parameters()}
    assert Int8Tensor in weights
    assert Int8Tensor not in {type(each) for each in model.pipeline.transformer.parameters()}
    one = _quantised(shop, '"int8"').weights_digest
    assert len({one, model.weights_digest, _quantised(shop, '"fp8"').weights_digest}) == 3


def test_fp8_weights_draw_a_picture_that_is_nearly_the_same(shop: Shop) -> None:
    model = _quantised(shop, '"fp8"')
    weight = model.pipeline.transformer.transformer_blocks[0].attn.to_q.weight
    assert isinstance(weight, Float8Tensor)
    drawn, plain = _drawn(shop, model), _drawn(shop, shop.model(FAMILY))
    difference = np.abs(drawn.astype(int) - plain.astype(int))
    assert difference.any()
    assert difference.mean() < 8
    # As in fp32, neither the neighbour nor the place in the pass counts.
    specs = [spec_of(model, seed=seed) for seed in (2, 1)]
    engine = open_engine(model, specs[0].group(), shop.settings)
    assert (pixels_of(render(engine, specs)[1]) == drawn).all()


def _write_gguf(module: torch.nn.Module, file: Path) -> None:
    """The weights of a module, in blocks of 32 where they can be cut into such."""
    writer = gguf.GGUFWriter(str(file), "qwen_image")
    for name, value in module.state_dict().items():
        numbers = value.float().numpy()
        if numbers.ndim == 2 and numbers.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            blocks = gguf.quants.quantize(np.ascontiguousarray(numbers), kind)
            writer.add_tensor(name, blocks, raw_dtype=kind)
        else:
            writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def file(shop: Shop, tmp_path: Path) -> Path:
    file = tmp_path / "weights.gguf"
    _write_gguf(shop.model(GGUF_FAMILY).pipeline.transformer, file)
    return file


def test_a_gguf_file_draws_what_diffusers_draws(shop: Shop, file: Path) -> None:
    shop.register(
        table_of("small", GGUF_FAMILY),
        "[models.small.parts]",
        f'transformer = {{ source = "{file}" }}',
    )
    model = shop.load("small")
    transformer = diffusers.QwenImageTransformer2DModel.from_single_file(
        str(file),
        config=str(shop.saved(GGUF_FAMILY) / "transformer"),
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=torch.float32),
        dtype=torch.float32,
        local_files_only=True,
    )
    pipeline = diffusers.QwenImagePipeline.from_pretrained(
        shop.saved(GGUF_FAMILY), transformer=transformer, local_files_only=True
    )
    drawn = _drawn(shop, model)
    assert worst_difference(drawn, _expected(GGUF_FAMILY, pipeline, model)) <= 1
    assert model.weights_digest != shop.model(GGUF_FAMILY).weights_digest
    assert model.tuning.fields()["quantization"].startswith("transformer gguf (gguf ")
    # The file's content counts, not its name.
    file.rename(file.with_name("other.gguf"))
    with pytest.raises(ModelError, match="no such file"):
        weights_digest(load_registry(shop.settings).find("small"))


def test_a_gguf_file_is_pulled_from_a_repository(shop: Shop, file: Path, tmp_path: Path) -> None:
    files = {"quants/weights.gguf": file.read_bytes(), "quants/other.gguf": b"not wanted"}
    with serving(Hub(repositories={"team/quants": files})) as hub:
        shop.register(
            table_of("small", GGUF_FAMILY),
            "[models.small.parts.transformer]",
            'source = "team/quants"',
            f'revision = "{REVISION}"',
            'file = "quants/weights.gguf"',
        )
        settings = shop.settings.model_copy(update={"model_cache": tmp_path / "cache"})
        entry = load_registry(settings).find("small")
        with pytest.raises(ModelError, match="models pull small"):
            weights_digest(entry)
        digest = pull(entry, settings, endpoint=hub.url).weights_digest
        assert any("weights.gguf" in path for path in hub.served)
        assert not any("other.gguf" in path for path in hub.served)
    pulled = load_model(load_registry(settings).find("small"), settings=settings)
    assert pulled.weights_digest == digest

    shop.register(
        table_of("small", GGUF_FAMILY),
        "[models.small.parts]",
        f'transformer = {{ source = "{file}" }}',
    )
    assert shop.load("small").weights_digest == digest


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['quantization = "int3"'], "quantization 'int3' is not known"),
        (['quantization = "bnb_nf4"'], "needs bitsandbytes|needs a CUDA device"),
        (['quantization = { unet = "int8" }'], "there is no component unet"),
        (['kind = "text_to_image"', 'quantization = "int8"'], "needs kind = 'generic'"),
        (
            ["[models.small.parts]", 'transformer = { source = "/no/x.gguf" }'],
            "/no/x.gguf: no such file",
        ),
        (
            ["[models.small.parts]", 'text_encoder = { source = "{file}" }'],
            "diffusers loads no .gguf file for CLIPTextModel",
        ),
        (
            ["[models.small.parts]", 'transformer = { source = "{file}" }'],
            "weights.gguf is no FluxTransformer2DModel",
        ),
    ],
)
def test_what_can_not_be_quantised_is_one_line(
    lines: list[str], said: str, shop: Shop, file: Path
) -> None:
    table = table_of("small", FAMILY)
    if lines[0].startswith("kind"):
        table = table.replace('\nkind = "generic"', "")
    shop.register(table, *(line.replace("{file}", str(file)) for line in lines))
    with pytest.raises(ModelError, match=said) as caught:
        shop.load("small")
    assert "\n" not in caught.value.message
