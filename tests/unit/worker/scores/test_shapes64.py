"""The scorer of shapes64: right and wrong pictures, and prompts that ask for something else."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagemill.worker.scores.shapes64.drawing import Scene, draw
from imagemill.worker.scores.shapes64.scorer import Shapes64


def judge(prompt: str) -> Any:
    scene = Scene(kind="star", colour="red", background="blue")
    picture = Image.fromarray(draw(scene, np.random.default_rng(3)))
    record: Any = SimpleNamespace(prompt=prompt)
    (scores,) = Shapes64().score([picture], [record])
    assert set(scores) == set(Shapes64.yields)
    return {name.removeprefix("shapes64_"): value for name, value in scores.items()}


def test_a_picture_is_compared_with_its_prompt() -> None:
    right = {"background": 1.0, "colour": 1.0, "kind": 1.0, "right": 1.0}
    assert judge("a red star on a blue background") == right
    assert judge("a red circle on a blue background") == {**right, "kind": 0.0, "right": 2 / 3}
    wrong = judge("two green hearts on a white background")
    assert wrong == dict.fromkeys(right, 0.0)


def test_another_prompt_can_not_be_judged() -> None:
    with pytest.raises(ValueError, match="not one coloured shape on a coloured background"):
        judge("a castle at dawn")
