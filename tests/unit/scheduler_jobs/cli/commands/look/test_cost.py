"""`cost`: the time of devices, and prices."""

import pytest

from imagemill.db.errors import SettingsError
from imagemill.db.queries.pictures import environments
from imagemill.scheduler_jobs.prices import price_of, read_prices
from tests.helpers.mill import sha

H200 = {"device": "cuda", "device_name": "NVIDIA H200"}


@pytest.fixture
def job(mill):
    mill.environment_id = mill.database.run(
        lambda session: environments.environment_id(session, fingerprint=sha("g"), document=H200)
    )
    job = mill.load("shapes", ["a", "b", "c"])
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=2))
    return job


def test_time_and_price(at_home, job):
    answer = at_home("cost", job, "--prices", "H200=3.6,cpu=0.05", "--json").json
    assert answer == {
        "job_id": job,
        "job_name": "shapes",
        "devices": [
            {
                "device": "NVIDIA H200",
                "images": 2,
                "seconds": 1.0,
                "images_per_hour": 7200.0,
                "price_per_hour": 3.6,
                "cost": pytest.approx(0.001),
            }
        ],
        "seconds": 1.0,
        "cost": pytest.approx(0.001),
        "reused": 0,
    }
    shown = at_home("cost", job, "--prices", "H200=3.6").out
    assert "7,200" in shown
    assert "cost: 0.0010" in shown


def test_the_setting_has_prices_and_a_device_may_have_none(at_home, job, monkeypatch):
    assert "no prices: set IMAGEMILL_PRICES" in at_home("cost", job).out
    monkeypatch.setenv("IMAGEMILL_PRICES", "cpu=1")
    assert "no price for NVIDIA H200" in at_home("cost", job).out
    monkeypatch.setenv("IMAGEMILL_PRICES", "cuda=1")
    assert at_home("cost", job, "--json").json["cost"] is not None


def test_a_job_without_pictures(at_home, mill):
    assert "no picture was rendered" in at_home("cost", mill.load("new", ["x"])).out


@pytest.mark.parametrize("text", ["H200", "H200=much", "=3", "H200=-1", "H200=nan", "H200=inf"])
def test_a_wrong_price_is_one_line(at_home, job, text):
    with pytest.raises(SettingsError, match="is no price"):
        read_prices(text)
    answer = at_home("cost", job, "--prices", text)
    assert answer.code == 2
    assert answer.err.startswith("error: --prices: ")


def test_prices_that_fit_no_device_of_the_job_are_refused(at_home, job, monkeypatch):
    for text in ("H20O=3.6", "cpu=1,L4=2", ","):
        answer = at_home("cost", job, "--prices", text)
        assert answer.code == 2
        said = f"error: --prices: {text!r} has no price for NVIDIA H200, or for cuda or cpu\n"
        assert answer.err == said
    monkeypatch.setenv("IMAGEMILL_PRICES", "L4=2")
    assert at_home("cost", job).code == 0


def test_a_device_has_one_price(at_home, job):
    answer = at_home("cost", job, "--prices", "H200=1,H200=2")
    assert (answer.code, answer.err) == (2, "error: --prices: 'H200' has two prices\n")


def test_the_longest_name_wins():
    prices = read_prices("H200=4, h200 nvl = 3,cuda=1,cpu=0.05,")
    assert price_of(prices, device="NVIDIA H200", kind="cuda") == 4
    assert price_of(prices, device="NVIDIA H200 NVL", kind="cuda") == 3
    assert price_of(prices, device="NVIDIA L4", kind="cuda") == 1
    assert price_of(prices, device="AMD EPYC", kind="cpu") == 0.05
    assert price_of({}, device="AMD EPYC", kind="cpu") is None


def test_a_plan_predicts_from_what_was_measured(at_home, mill, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text("prompt\na red circle\na blue star\n")
    assert "no time for 2 images" in at_home("plan", manifest).out
    mill.environment_id = mill.database.run(
        lambda session: environments.environment_id(session, fingerprint=sha("g"), document=H200)
    )
    at_home("submit", manifest)
    shift = mill.shift()
    mill.complete(shift, mill.claim(shift, limit=2))
    again = at_home("plan", manifest, "--seed", "5", "--samples", "50", "--json").json
    assert again["unmeasured"] == 0
    assert again["forecasts"] == [
        {"device": "NVIDIA H200", "images": 100, "seconds": 50.0, "cost": None}
    ]
    shown = at_home("plan", manifest, "--seed", "5", "--samples", "50").out
    assert "NVIDIA H200     100   50 s" in shown
    assert "no time" not in shown
    assert at_home("plan", manifest, "--json").json["forecasts"] == [], "all is there"
