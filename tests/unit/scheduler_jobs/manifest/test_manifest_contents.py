"""Files of other tools, as people have them: dialects, suffixes that promise something else."""

from pathlib import Path

import pytest

from tests.unit.manifests import DATA, good_rows, problems

CASES = DATA / "cases"


def prompts(name: str) -> list[str]:
    return [row.prompt for row in good_rows(CASES / name)]


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("array_of_texts.json", ["a red circle", "a blue square"]),
        ("excel_empty_rows.csv", ["a red circle"]),
        ("excel_tab.tsv", ["a red circle, on blue", 'a sign that says "open"']),
        ("hash_comment.txt", ["a red circle"]),
        ("semicolon.csv", ["a red circle"]),
        ("space_quote.csv", ["a red circle"]),
        ("table.txt", ["a red circle", "a blue square"]),
    ],
)
def test_each_file_gives_its_prompts(name: str, expected: list[str]) -> None:
    assert prompts(name) == expected


def test_a_table_in_a_text_file_fills_its_fields() -> None:
    first, _ = good_rows(CASES / "table.txt")
    assert (first.parameters.seed, first.parameters.steps) == (7, 5)


def test_the_keys_of_an_object_of_objects_are_the_ids() -> None:
    rows = good_rows(CASES / "object_of_objects.json")
    assert [(row.key, row.prompt) for row in rows] == [
        ("a1", "a red circle"),
        ("a2", "a blue square"),
    ]


def test_invokes_options_are_read_and_its_comments_are_none() -> None:
    first, second = good_rows(CASES / "dream_from_file.txt")
    assert (first.prompt, first.parameters.samples) == ("a red circle", 4)
    assert (first.parameters.width, first.parameters.height) == (128, 64)
    assert first.parameters.seed == 1234
    assert (second.prompt, second.parameters.steps) == ("a blue square", 10)
    assert (second.parameters.guidance_scale, second.parameters.sampler) == (7.5, "euler_a")


def test_blocks_of_the_inspire_pack_are_pictures() -> None:
    first, second = good_rows(CASES / "inspire_blocks.txt")
    assert (first.prompt, first.parameters.negative_prompt) == (
        "a red circle,\non blue",
        "blurry",
    )
    assert (second.prompt, second.parameters.negative_prompt) == ("a blue square", "text")


def test_a_batch_request_is_a_row(tmp_path: Path) -> None:
    line = (
        '{"custom_id": "r1", "method": "POST", "url": "/v1/images", "body": '
        '{"model": "shapes64", "prompt": "a red circle", "size": "512x512", "n": 2}}\n'
    )
    (row,) = good_rows(written(tmp_path, "batch.jsonl", line))
    assert (row.key, row.prompt, row.parameters.samples) == ("r1", "a red circle", 2)
    assert (row.parameters.width, row.parameters.model) == (512, "shapes64")
    assert row.extras == {"method": "POST", "url": "/v1/images"}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('{"custom_id": "a", "body": {"prompt": "x", "n": 2, "samples": 3}}', "samples"),
        ('{"custom_id": "a", "body": {"prompt": "x", "id": "b"}}', "id"),
        ('{"custom_id": "a", "body": {"prompt": "x"}, "prompt": "y"}', "prompt"),
    ],
)
def test_a_batch_request_says_each_field_once(tmp_path: Path, line: str, name: str) -> None:
    (found,) = problems(written(tmp_path, "batch.jsonl", line))
    assert found == f'batch.jsonl:1: "{name}" twice in a request; each field once'


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "sep=;\nprompt;seed\na, b;5\n", ["a, b"]),
        ("a.csv", "\ufeff\ufeffprompt,seed\na cat,5\n", ["a cat"]),
        ("a.csv", 'prompt;seed\n"a; ""b""";5\n', ['a; "b"']),
        ("a.csv", "prompt\tseed\na, b\t5\n", ["a, b"]),
        ("a.csv", '"prompt" ,"seed"\n"a, b" , 5\n', ["a, b"]),
        ("a.tsv", 'prompt\tseed\n"a\nb"\t5\n', ["a\nb"]),
        ("a.tsv", 'prompt\tseed\n"a" dog\t5\nb\t6\n', ['"a" dog', "b"]),
        ("a.tsv", 'prompt\tseed\n"a b"\t5\nsays "b"\t6\n', ['"a b"', 'says "b"']),
        ("a.tsv", "prompt\tseed\na\t5\n\t\n", ["a"]),
        ("a.txt", "prompt,seed\na cat,5\n", ["a cat"]),
        ("a.txt", "a photo, text, logo\na cat\n", ["a photo, text, logo", "a cat"]),
        ("a.txt", '{"prompt": "a cat"}\n{"prompt": "a dog"}\n', ["a cat", "a dog"]),
        ("a.txt", '["a cat", "a dog"]', ["a cat", "a dog"]),
        ("a.txt", "[cat|dog] in a hat\n", ["[cat|dog] in a hat"]),
        ("a.csv", '[{"prompt": "a cat"}]', ["a cat"]),
        ("a.json", '{"prompt": "a cat"}\n{"prompt": "a dog"}\n', ["a cat", "a dog"]),
        ("a.json", '{\n  "prompt": "a cat",\n  "steps": 5\n}\n', ["a cat"]),
        ("a.json", '{"x": {"prompt": "a cat"}, "y": {"prompt": "a dog"}}', ["a cat", "a dog"]),
        ("a.jsonl", '[\n"a cat",\n"a dog"\n]', ["a cat", "a dog"]),
        ("a.txt", "an x-ray -5 degrees cold\n#1 dad mug\n", None),
    ],
)
def test_the_content_decides(
    tmp_path: Path, name: str, text: str, expected: list[str] | None
) -> None:
    rows = good_rows(written(tmp_path, name, text))
    assert [row.prompt for row in rows] == (expected or text.splitlines())


@pytest.mark.parametrize(
    ("name", "text", "finding"),
    [
        ("a.tsv", 'prompt\tnote\n"a ""b"""\tx\nc "d"\tx\n', "as a spreadsheet does"),
        ("a.csv", "prompt,x;prompt\na;b\n", "divided by a comma or by a semicolon"),
        ("a.json", '{"images": [{"id": 1}], "annotations": []}', "a COCO annotation file"),
        ("a.json", '{"nodes": [{"id": 1}], "links": []}', "a ComfyUI workflow"),
        (
            "a.json",
            '{"3": {"class_type": "KSampler", "inputs": {"seed": 1}}}',
            "a ComfyUI workflow",
        ),
        (
            "a.json",
            '{"prompt": {"3": {"inputs": {"seed": 1}, "class_type": "KSampler"}}}',
            "a ComfyUI workflow",
        ),
        ("a.json", '{"prompt": {"0": "a"}, "seed": {"0": 1}}', "a table's columns"),
        ("a.json", '{"a": 1,\n "b": 2}', 'one object with the keys "a", "b"'),
        ("a.json", "a red circle\n", "no JSON: it begins with"),
        ("a.json", "[1, 2, 3]", "an array that begins with 1"),
        ("a.txt", "prompt\na red circle\n", "a table's header, or a prompt"),
        ("a.txt", "a cat -n4 -q1\n", "an unknown option"),
        ("a.txt", "positive: a\npositive: b\n----\n", "twice in one block"),
        ("a.json", '{"x": {"prompt": "a"},\n "y": {"prompt": "b"},\n', "without its end"),
    ],
)
def test_what_is_not_clear_is_one_line(tmp_path: Path, name: str, text: str, finding: str) -> None:
    (line,) = problems(written(tmp_path, name, text))
    assert finding in line
