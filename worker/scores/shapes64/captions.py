"""What people may say about a scene, and which scene a sentence asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imagemill.worker.scores.shapes64.drawing import COLOURS, KINDS, Scene

EMPTY = 0.10
"""The share of captions that are dropped, so that the model can be guided."""

JUNK = 0.03
"""The share of captions that are words of a usual negative prompt: they tell nothing."""

KIND_WORDS: dict[str, Sequence[str]] = {
    "circle": ("circle", "circle", "circle", "disc"),
    "square": ("square", "square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "diamond": ("diamond", "diamond", "diamond", "rhombus"),
    "cross": ("cross", "cross", "cross", "plus"),
    "heart": ("heart",),
    "ring": ("ring", "ring", "ring", "donut"),
}
"""A word written several times is said more often."""

COLOUR_WORDS: dict[str, Sequence[str]] = {
    **{name: (name,) for name in COLOURS},
    "cyan": ("cyan", "cyan", "turquoise"),
    "purple": ("purple", "purple", "violet"),
}

SIZE_WORDS: dict[str, Sequence[str]] = {
    "small": ("small", "small", "little", "tiny"),
    "medium": ("medium", "medium sized"),
    "large": ("large", "large", "big", "huge"),
}

POSITION_WORDS: dict[str, Sequence[str]] = {
    "centre": ("in the middle", "in the center", "in the centre", "centered"),
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "on top"),
    "bottom": ("at the bottom", "on the bottom"),
}

OPENINGS = ("a picture of", "a drawing of", "an image of", "an illustration of", "a photo of")

CLOSINGS = (
    "flat design",
    "flat illustration",
    "simple",
    "simple vector illustration",
    "minimal",
    "minimal design",
    "high quality",
    "vector drawing",
)

TEMPLATES = (
    "{shape} on {ground}",
    "{shape} on {ground}",
    "{shape} {position} on {ground}",
    "{shape} {position}, {ground}",
    "{shape} over {ground}",
    "{shape} against {ground}",
    "{shape} with {ground}",
    "{shape}, {ground}",
    "{ground} with {shape} {position}",
    "{ground}, {shape} {position}",
    "{shape} on {ground}, {position}",
)

JUNK_WORDS = (
    "blurry",
    "noisy",
    "ugly",
    "bad",
    "low quality",
    "bad quality",
    "watermark",
    "text",
    "a bad photo",
    "the worst quality",
    "deformed",
)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a sentence asks for, as far as a picture can be checked against it."""

    background: str
    colour: str
    kind: str


def _plural(word: str) -> str:
    return word + ("es" if word.endswith(("s", "x")) else "s")


def _pick(words: Sequence[str], rng: np.random.Generator) -> str:
    return words[int(rng.integers(len(words)))]


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _shape(scene: Scene, rng: np.random.Generator) -> str:
    kind, colour = _pick(KIND_WORDS[scene.kind], rng), _pick(COLOUR_WORDS[scene.colour], rng)
    told = rng.random() < (0.35 if scene.size == "medium" else 0.85)
    size = _pick(SIZE_WORDS[scene.size], rng) if told else ""
    if scene.count == 2:
        return " ".join(filter(None, ("two", size, colour, _plural(kind))))
    words = " ".join(filter(None, (size, colour, kind)))
    number = rng.random()
    if number < 0.85:
        return _with_article(words)
    return words if number < 0.95 else ("one " if number < 0.98 else "the ") + words


def _ground(scene: Scene, rng: np.random.Generator) -> str:
    colour = _pick(COLOUR_WORDS[scene.background], rng)
    word = "backdrop" if rng.random() < 0.12 else "background"
    words = f"{colour} {word}"
    return words if rng.random() < 0.15 else _with_article(words)


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A sentence that tells the scene's kind, colour, background and number, and maybe more."""
    told = rng.random() < (0.3 if scene.position == "centre" else 0.9)
    places = _pick(POSITION_WORDS[scene.position], rng) if told else ""
    with_place = [template for template in TEMPLATES if "{position}" in template]
    template = _pick(with_place if told else TEMPLATES, rng)
    said = template.format(shape=_shape(scene, rng), ground=_ground(scene, rng), position=places)
    said = re.sub(r" +", " ", said).replace(" ,", ",").strip(" ,")
    if rng.random() < 0.12:
        said = f"{_pick(OPENINGS, rng)} {said}"
    if rng.random() < 0.12:
        said = f"{said}, {_pick(CLOSINGS, rng)}"
    return said + ("." if rng.random() < 0.05 else "")


def training_caption(scene: Scene, rng: np.random.Generator) -> str:
    """What training says about a picture of the scene: sometimes nothing, or only junk."""
    chance = rng.random()
    if chance < EMPTY:
        return ""
    if chance < EMPTY + JUNK:
        words = rng.permutation(JUNK_WORDS)[: int(rng.integers(1, 5))]
        return ", ".join(words.tolist())
    return describe(scene, rng)


def caption_words() -> list[str]:
    """Every word that a caption can have, sorted."""
    spoken: set[str] = {"a", "an", "the", "one", "two", "background", "backdrop"}
    tables: tuple[Mapping[str, Sequence[str]], ...]
    tables = (KIND_WORDS, COLOUR_WORDS, SIZE_WORDS, POSITION_WORDS)
    texts = [text for table in tables for texts in table.values() for text in texts]
    texts += [_plural(word) for words in KIND_WORDS.values() for word in words]
    texts += [*OPENINGS, *CLOSINGS, *JUNK_WORDS, *(re.sub(r"{\w+}", "", t) for t in TEMPLATES)]
    for text in texts:
        spoken.update(re.findall(r"[a-z]+", text))
    return sorted(spoken)


_KIND_OF = {
    form: kind
    for kind, words in KIND_WORDS.items()
    for word in words
    for form in (word, _plural(word))
}
_COLOUR_OF = {word: colour for colour, words in COLOUR_WORDS.items() for word in words}


def understand(sentence: str) -> Wish:
    """What the sentence asks for: one kind, the colour before it, and another colour behind.

    :raises ValueError: when the sentence does not name one kind and two colours.
    """
    words = re.findall(r"[a-z]+", sentence.lower())
    kinds = [i for i, word in enumerate(words) if word in _KIND_OF]
    colours = [i for i, word in enumerate(words) if word in _COLOUR_OF]
    before = [i for i in colours if kinds and i < kinds[0]]
    if len(kinds) != 1 or len(colours) != 2 or not before:
        raise ValueError(f"not one coloured shape on a coloured background: {sentence!r}")
    mine = before[-1]
    other = next(i for i in colours if i != mine)
    return Wish(
        background=_COLOUR_OF[words[other]],
        colour=_COLOUR_OF[words[mine]],
        kind=_KIND_OF[words[kinds[0]]],
    )


assert set(KIND_WORDS) == set(KINDS)
