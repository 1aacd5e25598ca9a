"""The planner's count of tokens, against transformers' own CLIP tokenizer."""

import json
import shutil
from pathlib import Path

import pytest

from imagemill.db.errors import ModelError
from imagemill.scheduler_jobs.submit.prompts.prompt_window import PromptWindow
from tests.unit.manifests import PARTI_PROMPTS, good_rows

FOLDER = Path("worker/shapes64/tokenizer").resolve()
WINDOW = 32
ODD_PROMPTS = [
    "",
    "a red circle",
    "  A Red\tCircle \n on  a BLUE background  ",
    "İstanbul, ﬁne, Ǆ, क़, é, 漢字, 🦊🦊🦊, ½",
    "<|endoftext|> a circle <|startoftext|>",
    "it's we've I'll don't THEY'D 12345 x_y!!! -- ::",
    "wow!!! a! !b",
    "\u00a0non-breaking\u2003spaces\u200b",
]


def old_folder(tmp_path: Path, **config: object) -> Path:
    """A tokenizer folder as Stable Diffusion 1.x has it: no tokenizer.json."""
    folder = tmp_path / "old"
    folder.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(FOLDER / name, folder)
    marks = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    document = {"tokenizer_class": "CLIPTokenizer", "model_max_length": WINDOW, **marks, **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(document))
    return folder


def prompts() -> list[str]:
    return [row.prompt for row in good_rows(PARTI_PROMPTS)] + ODD_PROMPTS


@pytest.mark.parametrize("layout", ["tokenizer.json", "vocab and merges", "pad is !"])
def test_counts_and_cuts_are_those_of_transformers(layout: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = FOLDER
    if layout != "tokenizer.json":
        folder = old_folder(tmp_path, **({"pad_token": "!"} if layout == "pad is !" else {}))
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    ours = PromptWindow.from_tokenizer_folder(folder, WINDOW)
    cut = 0
    for prompt in prompts():
        encoding = theirs(prompt, return_offsets_mapping=True, truncation=False)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        assert ours.count(prompt) == len(ids) - 2, prompt
        if len(ids) <= WINDOW:
            assert ours.cut(prompt) is None, prompt
        else:
            cut += 1
            assert ours.cut(prompt) == prompt[offsets[WINDOW - 1][0] :], prompt
    assert cut > 100


def test_a_prompt_that_just_fits_is_whole_and_one_token_more_is_cut() -> None:
    window = PromptWindow.from_tokenizer_folder(FOLDER, WINDOW)
    words = ["red"] * (WINDOW - 2)
    assert window.count(" ".join(words)) == WINDOW - 2
    assert window.cut(" ".join(words)) is None
    assert window.cut(" ".join([*words, "Blue  circle "])) == "Blue  circle "


def test_letters_that_grow_when_normalized_are_counted_as_the_encoder_sees_them() -> None:
    window = PromptWindow.from_tokenizer_folder(FOLDER, WINDOW)
    prompt = "\u0958" * 9  # 27 bytes, but 54 after NFC: the fast path must not wave it through
    assert len(prompt.encode()) < WINDOW - 2 < window.count(prompt)
    assert window.cut(prompt) is not None


def test_a_folder_without_a_tokenizer_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json, and no vocab\.json"):
        PromptWindow.from_tokenizer_folder(tmp_path, WINDOW)


def test_a_damaged_tokenizer_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="the tokenizer can't be read"):
        PromptWindow.from_tokenizer_folder(tmp_path, WINDOW)


@pytest.mark.parametrize(("words", "windows"), [(0, 1), (1, 1), (30, 1), (31, 2), (60, 2), (61, 3)])
def test_a_long_prompt_fills_several_windows(words: int, windows: int) -> None:
    window = PromptWindow.from_tokenizer_folder(FOLDER, WINDOW)
    assert window.windows(" ".join(["red"] * words)) == windows
