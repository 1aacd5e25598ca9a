"""Which column means what."""

from pathlib import Path

import pytest

from imagemill.scheduler_jobs.manifest import Parameters
from imagemill.scheduler_jobs.manifest.columns.fields import (
    BATCH_SIZE,
    BATCHES,
    FIELDS,
    KEY,
    PROMPT,
    SAMPLER_INDEX,
    SCHEDULE,
    SIZE,
)
from imagemill.scheduler_jobs.manifest.columns.layout import EXTRA, field_of, lay_out
from tests.unit.manifests import good_rows, jsonl, problems


def test_the_table_names_every_parameter_and_no_name_twice() -> None:
    assert set(FIELDS) == {
        *Parameters.model_fields,
        *(PROMPT, KEY, SIZE, SAMPLER_INDEX, SCHEDULE, BATCH_SIZE, BATCHES),
    }
    names = [
        name for field, about in FIELDS.items() for name in (field, *about.also, *about.counted_as)
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["prompt", "Prompt", "PROMPTS", "positive prompt", " Prompt "])
def test_a_prompt_column_is_known_in_any_case(name: str, tmp_path: Path) -> None:
    (row,) = good_rows(jsonl(tmp_path, {name: "a cat"}))
    assert row.prompt == "a cat"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("cfg_scale", "guidance_scale"),
        ("CFG scale", "guidance_scale"),
        ("num_inference_steps", "steps"),
        ("Negative Prompt", "negative_prompt"),
        ("sampler_name", "sampler"),
        ("num-images", "samples"),
        ("negativePrompt", "negative_prompt"),
        ("numInferenceSteps", "steps"),
        ("cfgScale", "guidance_scale"),
        ("cfgscale", "guidance_scale"),
        ("CFG\u00a0scale", "guidance_scale"),
        ("\ufeffCFG\u2003Scale\u200b", "guidance_scale"),
        ("ｓｅｅｄ", "seed"),
        ("n", None),
        ("image", None),
        ("Category", None),
        ("Challenge", None),
        ("Note", None),
        ("tag", None),
        ("include", None),
        ("exclude", None),
    ],
)
def test_synonyms(name: str, field: str | None) -> None:
    assert field_of(name) == field


def test_caption_and_text_are_the_prompt_only_where_nothing_else_is(tmp_path: Path) -> None:
    rows = good_rows(
        jsonl(
            tmp_path,
            {"text": "a cat"},
            {"text": "a dog", "caption": "a good dog"},
            {"text": "x", "caption": "y", "prompt": "an ox"},
        )
    )
    assert [row.prompt for row in rows] == ["a cat", "a good dog", "an ox"]
    assert [dict(row.extras) for row in rows] == [
        {},
        {"text": "a dog"},
        {"text": "x", "caption": "y"},
    ]


def test_a_mapping_goes_before_the_names_that_are_known(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"title": "a cat", "prompt": "ignored", "width": 1023, "cfg": 3})
    mapping = {"title": PROMPT, "prompt": EXTRA, "width": EXTRA}
    (row,) = good_rows(path, columns=mapping)
    assert row.prompt == "a cat"
    assert row.extras == {"prompt": "ignored", "width": 1023}
    assert row.parameters.settings() == {"guidance_scale": 3.0}


def test_a_wrong_mapping_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("title,x\na cat,1\n")
    assert problems(path, columns={"title": "promt"})[0].startswith(
        "rows.csv: --map title=promt names no field; one of prompt, id,"
    )
    assert problems(path, columns={"titel": "prompt"}) == [
        'rows.csv: line 1: header: --map names "titel", which is no column; one of title, x'
    ]
    assert len(good_rows(path, columns={"title": "prompt"})) == 1


def test_the_id_column_is_the_key(tmp_path: Path) -> None:
    rows = good_rows(
        jsonl(
            tmp_path,
            {"id": "x-1", "prompt": "a"},
            {"ID": 12, "prompt": "b"},
            {"id": None, "prompt": "c"},
            {"id": "", "prompt": "d"},
            {"prompt": "e"},
        )
    )
    assert [row.key for row in rows] == ["x-1", "12", None, None, None]


def test_size_is_width_and_height(tmp_path: Path) -> None:
    rows = good_rows(
        jsonl(tmp_path, {"prompt": "a", "size": "512x768"}, {"prompt": "b", "Size": "64 × 8"})
    )
    assert [(r.parameters.width, r.parameters.height) for r in rows] == [(512, 768), (64, 8)]
    path = jsonl(tmp_path, {"prompt": "a", "size": "512x768", "width": 512})
    assert problems(path) == ["rows.jsonl:1: size: both size and width or height; one of them"]


PUBLIC_COLUMNS = {
    "PartiPrompts": ("Prompt", "Category", "Challenge", "Note"),
    "GenEval": ("tag", "include", "exclude", "prompt"),
    "DrawBench": ("Prompts", "Category"),
    "I2P": (
        *("prompt", "categories", "hard", "inappropriate_percentage", "nudity_percentage"),
        *("q16_percentage", "lexica_url"),
    ),
    "MJHQ-30K": ("id", "category", "prompt"),
    "COCO": ("image_id", "id", "caption"),
    "COCO-30k": ("image_id", "id", "caption", "coco_url", "file_name", "license"),
    "HPSv2": ("prompt", "image_path", "raw_annotations", "user_hash", "rank", "style"),
    "T2I-CompBench": ("prompt", "category", "text", "sample_id"),
    "DPG-Bench": (
        *("item_id", "text", "keywords", "proposition_id", "dependency", "category_broad"),
        *("category_detailed", "tuple", "question_natural_language"),
    ),
    "Pick-a-Pic": (
        *("caption", "model_0", "model_1", "image_0_uid", "are_different", "best_image_uid"),
        *("label_0", "has_label", "num_example_per_prompt", "ranking_id"),
    ),
    "LAION": ("TEXT", "URL", "WIDTH", "HEIGHT", "similarity", "hash", "punsafe", "pwatermark"),
    "img2dataset": (
        "caption",
        "url",
        "key",
        "status",
        "original_width",
        "original_height",
        "sha256",
    ),
    "everyday words": ("prompt", "task", "mode", "score", "weight", "sample", "source", "style"),
}


@pytest.mark.parametrize("name", PUBLIC_COLUMNS)
def test_no_column_of_a_public_prompt_set_is_taken_for_a_setting(name: str) -> None:
    layout = lay_out(PUBLIC_COLUMNS[name], {})
    assert not layout.refused
    assert not layout.foreign


TOOLS: dict[str, dict[str, str]] = {
    "A1111, API": {
        "sampler_name": "sampler",
        "sampler_index": SAMPLER_INDEX,
        "cfg_scale": "guidance_scale",
        "batch_size": BATCH_SIZE,
        "n_iter": BATCHES,
        "denoising_strength": "strength",
    },
    "A1111, infotext": {
        "Negative prompt": "negative_prompt",
        "Steps": "steps",
        "Sampler": "sampler",
        "Schedule type": SCHEDULE,
        "CFG scale": "guidance_scale",
        "Seed": "seed",
        "Size": SIZE,
        "Model": "model",
        "Clip skip": "clip_skip",
        "Denoising strength": "strength",
        "Refiner switch at": "refiner_start",
    },
    "ComfyUI": {
        "noise_seed": "seed",
        "cfg": "guidance_scale",
        "denoise": "strength",
        "ckpt_name": "model",
        "negative": "negative_prompt",
    },
    "InvokeAI": {
        "positive_prompt": PROMPT,
        "cfg_rescale_multiplier": "guidance_rescale",
        "scheduler": "sampler",
        "iterations": BATCHES,
    },
    "Fooocus": {
        "image_number": "samples",
        "image_seed": "seed",
        "resolution": SIZE,
        "refiner_switch": "refiner_start",
        "base_model": "model",
    },
    "SwarmUI": {
        "negativeprompt": "negative_prompt",
        "cfgscale": "guidance_scale",
        "initimage": "init_image",
        "initimagecreativity": "strength",
        "batchsize": BATCH_SIZE,
    },
    "kohya": {
        "scale": "guidance_scale",
        "sample_steps": "steps",
        "sample_sampler": "sampler",
    },
    "diffusers": {
        "num_inference_steps": "steps",
        "num_images_per_prompt": "samples",
        "guidance_rescale": "guidance_rescale",
        "denoising_end": "refiner_start",
    },
    "DiffusionDB": {"step": "steps", "cfg": "guidance_scale", "seed": "seed", "width": "width"},
}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_names_of_other_tools(tool: str) -> None:
    assert {name: field_of(name) for name in TOOLS[tool]} == TOOLS[tool]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("sd_seed", "seed"),
        ("sdSeed", "seed"),
        ("evaluation_seed", "seed"),
        ("random seed", "seed"),
        ("sd_guidance_scale", "guidance_scale"),
        ("sd_image_width", "width"),
        ("image_size", "size"),
        ("seed_1", "seed"),
        ("width_px", "width"),
        ("guidence_scale", "guidance_scale"),
        ("negtive_prompt", "negative_prompt"),
        ("sampler_nam", "sampler"),
        ("setps", "steps"),
        ("heigth", "height"),
        ("sede", "seed"),
        ("sd_model_name", "model"),
    ],
)
def test_what_looks_like_a_setting_is_refused_with_a_way_out(
    name: str, field: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"prompt,{name}\na cat,8\n")
    (line,) = problems(path)
    assert line.startswith(f'rows.csv: line 1: header: "{name}" looks like {field}, and is no')
    assert "--map " in line
    assert "--extra " in line
    (row,) = good_rows(path, columns={name: EXTRA})
    assert row.extras == {name: "8"}
    assert problems(jsonl(tmp_path, {"prompt": "a", name: 8}))[0].startswith(
        f'rows.jsonl:1: "{name}" looks like {field}'
    )


@pytest.mark.parametrize(
    ("name", "value", "inert"),
    [
        ("restore_faces", True, False),
        ("Face restoration", "CodeFormer", None),
        ("styles", ["anime"], []),
        ("subseed", 5, -1),
        ("Variation seed strength", 0.5, 0),
        ("Hires upscale", 2, ""),
        ("hrf_strength", 0.4, None),
        ("seamless_x", True, False),
        ("vae", "other.safetensors", "Automatic"),
        ("performance", "Speed", None),
        ("aspectratio", "16:9", ""),
        ("prompt_2", "a dog", None),
        ("variationseed", 7, -1),
        ("end_at_step", 5, 10000),
        ("init_image_path", "cat.png", ""),
        ("control_image_path", "edges.png", None),
        ("denoise_strength", 0.5, 0),
        ("sigmas", [1.0, 0.5], []),
        ("lora_scale", 0.5, 1),
        ("output_compression", 50, 100),
    ],
)
def test_a_setting_of_another_tool_is_refused_unless_it_asks_for_nothing(
    name: str, value: object, inert: object, tmp_path: Path
) -> None:
    (line,) = problems(jsonl(tmp_path, {"prompt": "a", name: value}))
    assert f"rows.jsonl:1: {name}: " in line
    assert "a setting that imagemill does not have; --extra " in line
    (row,) = good_rows(jsonl(tmp_path, {"prompt": "a", name: inert}))
    assert row.extras == {name: inert}
    (row,) = good_rows(jsonl(tmp_path, {"prompt": "a", name: value}), columns={name: EXTRA})
    assert row.extras == {name: value}


def test_a_setting_that_is_switched_off_asks_for_nothing(tmp_path: Path) -> None:
    row = {"prompt": "a", "enable_hr": False, "hr_scale": 2, "subseed": 5, "subseed_strength": 0}
    assert len(good_rows(jsonl(tmp_path, row))) == 1


def test_a_pattern_keeps_columns_as_they_stand_and_must_meet_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,sd_seed,sd_width\na cat,1,8\n")
    (row,) = good_rows(path, columns={"sd_*": EXTRA})
    assert row.extras == {"sd_seed": "1", "sd_width": "8"}
    assert "--extra 'sd_*'" in problems(path)[0]
    assert problems(path, columns={"sd_*": EXTRA, "x_*": EXTRA}) == [
        'rows.csv: line 1: header: --extra names "x_*", which is no column; '
        "one of prompt, sd_seed, sd_width"
    ]
    rows = jsonl(tmp_path, {"prompt": "a"}, {"prompt": "b", "sd_seed": 1})
    assert len(good_rows(rows, columns={"sd_*": EXTRA})) == 2
    assert problems(rows, columns={"sd_*": EXTRA, "x": PROMPT}) == [
        'rows.jsonl: --map names "x", which is no column; a key that a row has'
    ]


def test_swarmui_s_images_are_samples_and_a_data_set_s_are_an_extra(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": "a", "images": 3, "batchsize": "1"},
        {"prompt": "b", "images": "2"},
        {"prompt": "c", "images": ["a.png", "b.png"]},
        {"prompt": "d", "images": "a.png"},
        {"prompt": "e", "images": 5, "samples": 2},
    ]
    found = good_rows(jsonl(tmp_path, *rows))
    assert [row.parameters.count for row in found] == [3, 2, 1, 1, 2]
    extras = [{}, {}, {"images": ["a.png", "b.png"]}, {"images": "a.png"}, {"images": 5}]
    assert [dict(row.extras) for row in found] == extras
    (row,) = good_rows(jsonl(tmp_path, {"prompt": "a", "images": 3}), columns={"images": EXTRA})
    assert (row.parameters.count, row.extras) == (1, {"images": 3})
    assert problems(jsonl(tmp_path, {"prompt": "a", "images": 0}))[0].startswith(
        "rows.jsonl:1: images: 0; a whole number from 1"
    )


def test_invokeai_s_model_is_the_name_in_its_object(tmp_path: Path) -> None:
    model = {"key": "1f", "hash": "blake3:0", "name": "shapes64", "base": "sd-1", "type": "main"}
    (row,) = good_rows(jsonl(tmp_path, {"prompt": "a", "model": model}))
    assert row.parameters.model == "shapes64"
    (line,) = problems(jsonl(tmp_path, {"prompt": "a", "model": {"key": "1f"}}))
    assert line.startswith("rows.jsonl:1: model: ")


def test_batches_are_multiplied_to_samples(tmp_path: Path) -> None:
    rows = good_rows(
        jsonl(
            tmp_path,
            {"prompt": "a", "batch_size": 2, "n_iter": 3},
            {"prompt": "b", "Batch size": 4},
            {"prompt": "c", "seeds": [1, 2], "batch_size": 1},
        )
    )
    assert [row.parameters.count for row in rows] == [6, 4, 2]
    path = jsonl(
        tmp_path, {"prompt": "a", "batch_size": 0}, {"prompt": "b", "batch_size": 2, "samples": 3}
    )
    assert problems(path) == [
        "rows.jsonl:1: batch_size: 0; a whole number of at least 1",
        "rows.jsonl:2: batch_size: both samples and a batch; one of them",
    ]
