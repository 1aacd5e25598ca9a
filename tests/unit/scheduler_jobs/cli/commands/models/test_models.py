"""`imagemill models` and `doctor`: what is wrong in the registry is shown."""

import pytest

from imagemill.db.models.registry import load_registry
from imagemill.db.settings import Settings


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("defaults = { steps = 0 }", "model a: defaults.steps: 0; a whole number of at least 1"),
        ('ip_adapter = "plain"', "model a: ip_adapter: no IP-Adapter is called 'plain'"),
        ('variant = "fp16"', "model a: variant: 'fp16'; no weights here"),
    ],
)
def test_a_model_whose_entry_is_wrong_is_not_shown_as_here(
    imagemill, at_home, tmp_path, monkeypatch, key, says
):
    file = tmp_path / "models.toml"
    shapes = load_registry(Settings.load()).find("shapes64").source
    file.write_text(f'[models.a]\nsource = "{shapes}"\n{key}\n')
    monkeypatch.setenv("IMAGEMILL_MODELS", str(file))
    listed = imagemill("models")
    assert says in listed.err
    assert [line.split()[1] for line in listed.out.splitlines() if line.startswith("a ")] == ["no"]
    found = imagemill("models", "--json").json["models"]
    assert says in next(each["problem"] for each in found if each["model"] == "a")
    planned = at_home("plan", "--prompt", "a red circle", "--model", "a")
    assert (planned.code, says in planned.err) == (2, True)
    assert says in imagemill("doctor").out
