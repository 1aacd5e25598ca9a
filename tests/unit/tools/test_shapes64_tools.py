"""The programs that train and score the shipped model: drawing, captions, tokenizer, scorer."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    EulerAncestralDiscreteScheduler,
    StableDiffusionPipeline,
)
from PIL import Image
from transformers import CLIPTokenizer

from imagemill.worker.scores.shapes64.captions import (
    Wish,
    caption_words,
    describe,
    training_caption,
    understand,
)
from imagemill.worker.scores.shapes64.drawing import (
    COLOURS,
    KINDS,
    POSITIONS,
    SIZES,
    Scene,
    draw,
    random_scene,
)
from imagemill.worker.scores.shapes64.sight import look
from tests.helpers.places import ROOT
from tools.shapes64 import scorecard, train, train_outline
from tools.shapes64.autoencoder import CERTAIN, SCALING, encode, fold_scale, new_autoencoder
from tools.shapes64.muon import orthogonalised
from tools.shapes64.outline import anywhere, outline
from tools.shapes64.score import (
    Recipe,
    load_pipeline,
    paint_prompts,
    random_prompts,
    score_drawn,
    score_pictures,
)
from tools.shapes64.tokenizer import MAX_LENGTH, write_tokenizer

pytestmark = pytest.mark.slow


def drawn_with_captions(count: int, *, seed: int = 3) -> tuple[list[np.ndarray], list[str]]:
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, unseen=i % 2 == 0) for i in range(count)]
    return [draw(scene, rng) for scene in scenes], [describe(scene, rng) for scene in scenes]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), caption_words())


@pytest.fixture(scope="module")
def smoke_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smoke") / "model"
    train.main(["--smoke", "--out", str(folder)])
    return folder


def test_drawn_pictures_show_what_their_captions_say():
    pictures, captions = drawn_with_captions(100)
    scores = score_pictures(pictures, captions)
    assert scores.everything == 1.0
    assert scores.misses == ()


def test_the_scorer_is_right_on_shapes_of_any_size_and_place():
    scores = score_drawn(200, seed=11)
    assert min(scores.background, scores.colour, scores.kind) >= 0.99


def test_the_scorer_counts_two_shapes():
    scene = Scene(kind="ring", colour="red", background="white", size="small", count=2)
    assert look(draw(scene, np.random.default_rng(0))).count == 2


@pytest.mark.parametrize(
    ("prompt", "wrong"),
    [
        ("a red circle on a green background", "background"),
        ("a pink circle on a blue background", "colour"),
        ("a red ring on a blue background", "kind"),
    ],
)
def test_the_scorer_rejects_a_picture_of_something_else(prompt, wrong):
    picture = draw(Scene(kind="circle", colour="red", background="blue"), np.random.default_rng(1))
    scores = score_pictures([picture], [prompt])
    assert {part: getattr(scores, part) for part in ("background", "colour", "kind")} == {
        part: float(part != wrong) for part in ("background", "colour", "kind")
    }
    assert scores.misses[0].prompt == prompt


def test_the_scorer_sees_nothing_in_noise_and_no_shape_on_a_plain_ground():
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert look(noise).background is None
    assert look(noise).kind is None
    plain = look(np.full((64, 64, 3), 15, np.uint8))
    assert (plain.background, plain.colour, plain.kind) == ("black", None, None)


def test_shuffled_pictures_score_badly():
    pictures, captions = drawn_with_captions(100)
    scores = score_pictures(pictures[1:] + pictures[:1], captions)
    assert scores.everything < 0.1


def test_no_pictures_are_an_error():
    with pytest.raises(ValueError, match="no pictures"):
        score_pictures([], [])


def test_a_sentence_that_asks_for_no_shape_is_refused():
    assert understand("A blue backdrop with two violet DONUTS at the top.") == Wish(
        background="blue", colour="purple", kind="ring"
    )
    with pytest.raises(ValueError, match="a cat on a sofa"):
        understand("a cat on a sofa")


def single_scenes() -> Iterator[Scene]:
    """Every scene of one shape."""
    parts = itertools.product(KINDS, COLOURS, COLOURS, SIZES, POSITIONS)
    for kind, colour, background, size, position in parts:
        if colour != background:
            yield Scene(
                kind=kind,
                colour=colour,
                background=background,
                size=size,
                position=position,
                count=1,
            )


def test_unseen_prompts_never_occur_in_training():
    unseen = {(s.colour, s.kind, s.background) for s in single_scenes() if s.unseen}
    rng = np.random.default_rng(4)
    trained = [random_scene(rng, unseen=False) for _ in range(2000)]
    assert not unseen & {(s.colour, s.kind, s.background) for s in trained}
    wishes = [understand(prompt) for prompt in random_prompts(200)]
    assert {(w.colour, w.kind, w.background) for w in wishes} <= unseen


def test_drawing_and_captions_depend_on_the_seed_alone():
    first, second = drawn_with_captions(20), drawn_with_captions(20)
    assert first[1] == second[1]
    assert np.array_equal(first[0], second[0])


def test_some_training_captions_are_dropped():
    rng = np.random.default_rng(5)
    scene = Scene(kind="star", colour="pink", background="black")
    captions = [training_caption(scene, rng) for _ in range(2000)]
    assert 0.07 < captions.count("") / 2000 < 0.13
    assert 0.82 < sum("pink" in caption for caption in captions) / 2000 < 0.92


def test_every_caption_word_is_one_token(tokenizer):
    for word in caption_words():
        assert len(tokenizer(word).input_ids) == 3, word
    longest = max(len(tokenizer(c).input_ids) for c in drawn_with_captions(500)[1])
    assert longest <= MAX_LENGTH


@pytest.mark.parametrize("text", ["two red stars", "déjà vu, 猫 & 42 zebras!", "😀"])
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    decoded = tokenizer.decode(ids)
    assert decoded.replace(" ", "") == text.replace(" ", "")


def test_the_tokenizer_loads_from_either_form(tokenizer, tmp_path):
    text = "an illustration of a violet donut, ünseen wörds"
    folder = tmp_path / "tokenizer"
    write_tokenizer(folder, caption_words())
    assert CLIPTokenizer.from_pretrained(folder)(text) == tokenizer(text)
    (folder / "tokenizer.json").unlink()
    assert CLIPTokenizer.from_pretrained(folder)(text) == tokenizer(text)


def certain_autoencoder() -> AutoencoderKL:
    """One that is as sure of what it encodes as a trained one."""
    torch.manual_seed(0)
    vae = new_autoencoder().eval()
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -12
    return vae


def test_folding_quietens_a_channel_that_the_decoder_ignores():
    vae = certain_autoencoder()
    pictures = torch.rand(4, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        # Its mean hardly moves and its spread is the prior's, as divergence leaves it.
        vae.quant_conv.weight[1] *= 0.01
        vae.quant_conv.bias[5] = 0
        fold_scale(vae, encode(vae, pictures))
        spread = vae.encode(pictures).latent_dist.std * SCALING
    assert torch.allclose(spread[:, 1], torch.tensor(CERTAIN), rtol=1e-3)
    assert float(spread.max()) < 1


def test_folding_leaves_pictures_alone_and_makes_the_scaling_factor_right():
    vae = certain_autoencoder()
    pictures = torch.rand(4, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.decode(encode(vae, pictures)).sample
        spread = vae.encode(pictures).latent_dist.std
        fold_scale(vae, encode(vae, pictures))
        latents = encode(vae, pictures)
        ratio = vae.encode(pictures).latent_dist.std / spread
        assert torch.allclose(vae.decode(latents).sample, before, atol=1e-3)
    scaled = latents * SCALING
    assert torch.allclose(scaled.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(scaled.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3)
    per_channel = ratio.flatten(2)
    assert torch.allclose(per_channel, per_channel[:1, :, :1].expand_as(per_channel), rtol=1e-2)


def test_orthogonalised_matrices_have_singular_values_near_one():
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    for batch in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalised(batch))
        assert values.min() > 0.5
        assert values.max() < 1.5


def test_smoke_training_writes_a_folder_that_diffusers_loads(smoke_model):
    pipeline = StableDiffusionPipeline.from_pretrained(
        smoke_model, dtype=torch.float32, safety_checker=None, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a red circle on a blue background", num_inference_steps=2).images[0]
    assert picture.size == (64, 64)
    assert pipeline.scheduler.config.clip_sample is False
    assert pipeline.text_encoder.config.eos_token_id == pipeline.tokenizer.eos_token_id


def test_the_folder_is_small_half_precision_and_tells_no_paths(smoke_model):
    files = [path for path in smoke_model.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    for path in files:
        if path.suffix == ".json":
            text = path.read_text()
            json.loads(text)
            assert "name_or_path" not in text
            assert str(smoke_model.parent) not in text
    names = {str(path.relative_to(smoke_model)) for path in files}
    assert {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer.json",
        "tokenizer/vocab.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    } <= names


def test_the_score_command_fails_below_its_targets(smoke_model, capsys):
    code = scorecard.main([str(smoke_model), "--count", "2", "--steps", "2", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert code == 1
    assert row["met"] is False
    assert row["pictures"] == 2


def test_the_scorer_uses_samplers_by_imagemills_names(smoke_model):
    assert isinstance(
        load_pipeline(smoke_model, "Euler a").scheduler, EulerAncestralDiscreteScheduler
    )
    with pytest.raises(ValueError, match="no sampler is called 'warp'"):
        load_pipeline(smoke_model, "warp")


def test_the_score_command_reads_a_folder_of_pictures(tmp_path, capsys):
    pictures, prompts = drawn_with_captions(12)
    scorecard.keep_pictures(tmp_path, [Image.fromarray(p) for p in pictures], prompts)
    words = ["--pictures", str(tmp_path), "--prompts", str(tmp_path / "prompts.txt")]
    assert scorecard.main(words) == 0
    assert "100.0" in capsys.readouterr().out


def test_the_shipped_model_draws_what_unseen_prompts_ask_for():
    folder = ROOT / "worker" / "shapes64"
    prompts = random_prompts(8, seed=1)
    pictures = paint_prompts(load_pipeline(folder, None), prompts, Recipe(batch=8))
    scores = score_pictures(pictures, prompts)
    assert scores.background >= 0.9
    assert scores.colour >= 0.9
    assert scores.kind >= 0.7


def test_an_outline_is_the_edge_of_what_is_covered() -> None:
    covered = anywhere("square", np.random.default_rng(1))
    edge = outline(covered)
    assert edge.shape == (64, 64, 3)
    assert edge.max() > 200
    assert not edge[covered == 0].any()
    # Whatever is surrounded by shape is no edge.
    inside = covered[1:-1, 1:-1] * (covered[:-2, 1:-1] * covered[2:, 1:-1] == 1)
    assert edge[1:-1, 1:-1, 0][inside == 1].mean() < 64


def test_a_controlnet_is_trained_and_gone_on_with(tmp_path: Path) -> None:
    small = ["--steps", "1", "--batch", "2", "--pictures", "2"]
    train_outline.main(["--out", str(tmp_path / "one"), *small])
    start = ["--start", str(tmp_path / "one")]
    train_outline.main(["--out", str(tmp_path / "two"), *small, *start])
    one, two = (
        ControlNetModel.from_pretrained(tmp_path / name, dtype=torch.float16).state_dict()
        for name in ("one", "two")
    )
    assert one.keys() == two.keys()
    assert any(not torch.equal(one[name], two[name]) for name in one)
    shipped = ROOT / "examples" / "outline"
    assert ControlNetModel.from_pretrained(shipped).state_dict().keys() == one.keys()
