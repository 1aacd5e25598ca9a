"""CLIP score, aesthetic head and classifiers, with small models of random weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from imagemill.db.errors import ModelError, UsageError
from imagemill.db.models.scorers import all_scorers
from imagemill.db.scorers import find_scorers
from imagemill.db.settings import Settings
from imagemill.worker.scores.shelf import ScorerShelf
from tests.helpers.places import ROOT

SMALL = {"intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {"hidden_size": 16, "image_size": 32, "patch_size": 16, **SMALL}
RECORDS: Any = [SimpleNamespace(prompt=text) for text in ("a red circle", "a blue star " * 40)]


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 48, 3), np.uint8))


PICTURES = [noise(1), noise(2)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `clip`, `siglip` and `vit`, and a head of two layers."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "worker" / "shapes64" / "tokenizer")
    ids = {name: getattr(tokenizer, name) for name in ("eos_token_id", "bos_token_id")}
    text = {"hidden_size": 16, "vocab_size": len(tokenizer), "max_position_embeddings": 32}
    texts = {**text, **SMALL, **ids, "pad_token_id": tokenizer.pad_token_id}
    size = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    clip = CLIPModel(CLIPConfig(text_config=texts, vision_config=VISION, projection_dim=8))
    siglip = SiglipModel(
        SiglipConfig(text_config={**texts, "projection_size": 16}, vision_config=VISION)
    )
    for name, model in (("clip", clip), ("siglip", siglip)):
        model.save_pretrained(folder / name)
        CLIPProcessor(CLIPImageProcessor(**size), tokenizer).save_pretrained(folder / name)
    labels = {0: "normal", 1: "nsfw"}
    config = ViTConfig(**VISION, id2label=labels, label2id={v: k for k, v in labels.items()})
    ViTForImageClassification(config).save_pretrained(folder / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "vit")
    layers = {"layers.10.weight": torch.ones(1, 4), "layers.10.bias": torch.tensor([5.0])}
    save_file({"layers.2.weight": torch.full((4, 8), 0.5), **layers}, folder / "head.safetensors")
    return folder


def settings(models: Path, tmp_path: Path, text: str) -> Settings:
    registry = tmp_path / "models.toml"
    registry.write_text(text.replace("$", str(models)))
    return Settings.load(models=registry, device="cpu", model_cache=tmp_path / "cache")


def scores(used: Settings, name: str) -> list[Any]:
    shelf = ScorerShelf(all_scorers(used), used)
    return list(shelf.find(name).score(PICTURES, RECORDS))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_clip_score_is_a_cosine_and_belongs_to_its_picture(
    kind: str, models: Path, tmp_path: Path
) -> None:
    used = settings(models, tmp_path, f'[scorers.fit]\nkind = "clip"\nsource = "$/{kind}"')
    both = scores(used, "fit")
    assert [set(each) for each in both] == [{"fit"}, {"fit"}]
    assert all(-1 <= each["fit"] <= 1 for each in both)
    scorer = ScorerShelf(all_scorers(used), used).find("fit")
    for picture, record, told in zip(PICTURES, RECORDS, both, strict=True):
        (alone,) = scorer.score([picture], [record])
        assert alone["fit"] == pytest.approx(told["fit"], abs=1e-5)
    (other,) = scorer.score([PICTURES[0]], RECORDS[1:])
    assert other["fit"] != pytest.approx(both[0]["fit"], abs=1e-5)


def test_an_aesthetic_head_is_applied_to_the_normalized_embedding(
    models: Path, tmp_path: Path
) -> None:
    text = '[scorers.nice]\nkind = "aesthetic"\nsource = "$/clip"\nhead = "$/head.safetensors"'
    found = scores(settings(models, tmp_path, text), "nice")
    clip = CLIPModel.from_pretrained(models / "clip").eval()
    processor = CLIPProcessor.from_pretrained(models / "clip")
    with torch.inference_mode():
        pixels = processor.image_processor(PICTURES, return_tensors="pt")["pixel_values"]
        wanted = clip.visual_projection(clip.vision_model(pixels).pooler_output)
    wanted = torch.nn.functional.normalize(wanted, dim=-1)
    # Four equal rows of 0.5, then their sum plus 5.
    assert [each["nice"] for each in found] == pytest.approx((2 * wanted.sum(-1) + 5).tolist())


def test_a_classifier_gives_the_probability_of_its_label(models: Path, tmp_path: Path) -> None:
    text = "\n".join(
        f'[scorers.{label}]\nkind = "classifier"\nsource = "$/vit"\nlabel = "{label}"'
        for label in ("nsfw", "normal", "cat")
    )
    used = settings(models, tmp_path, text)
    nsfw, normal = scores(used, "nsfw"), scores(used, "normal")
    for one, other in zip(nsfw, normal, strict=True):
        assert one["nsfw"] + other["normal"] == pytest.approx(1)
    with pytest.raises(UsageError, match="no label 'cat'; it has normal, nsfw"):
        scores(used, "cat")


def test_versions_follow_the_weights_and_missing_ones_are_a_problem(
    models: Path, tmp_path: Path
) -> None:
    text = '[scorers.a]\nkind = "clip"\nsource = "$/clip"\n[scorers.b]\nkind = "clip"\nsource = '
    known = all_scorers(settings(models, tmp_path, f'{text}"$/siglip"'))
    assert known["a"].version != known["b"].version
    missing = all_scorers(settings(models, tmp_path, f'{text}"$/none"'))
    assert missing["a"].version == known["a"].version
    with pytest.raises(UsageError, match=r"the scorer b: .*none: no such folder"):
        find_scorers(["b"], missing)
    assert ("a", known["a"].version) in ScorerShelf(missing, Settings()).able
    assert "b" not in dict(ScorerShelf(missing, Settings()).able)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[scorers.x]\nkind = "clip"\nsource = "clip"', "absolute folder, or a Hub id"),
        ('[scorers.x]\nkind = "clip"\nsource = "a/b"\nrevision = "main"', "revision"),
        ('[scorers.x]\nkind = "magic"', "kind"),
        ('[scorers.x]\nkind = "judge"\nurl = "file:///x"\nmodel = "m"\nquestion = "?"', "http"),
    ],
)
def test_a_wrong_table_is_one_line(models: Path, tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ModelError, match=problem) as refused:
        all_scorers(settings(models, tmp_path, text))
    assert "\n" not in str(refused.value)


def test_a_name_that_is_taken_is_refused(models: Path, tmp_path: Path) -> None:
    used = settings(models, tmp_path, '[scorers.phash]\nkind = "clip"\nsource = "$/clip"')
    with pytest.raises(UsageError, match="there is a scorer phash already"):
        all_scorers(used)
