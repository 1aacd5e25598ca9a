"""Settings: where they come from, and what is said about a bad one."""

import pytest

from imagemill.db.errors import SettingsError
from imagemill.db.settings import Settings
from imagemill.db.urls import without_password


def test_a_variable_wins_over_the_file(tmp_path, monkeypatch):
    file = tmp_path / "settings.toml"
    file.write_text('slots = 4\nroute = "from-file"\n')
    monkeypatch.setenv("IMAGEMILL_CONFIG", str(file))
    monkeypatch.setenv("IMAGEMILL_SLOTS", "16")
    settings = Settings.load()
    assert (settings.slots, settings.route) == (16, "from-file")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("IMAGEMILL_SLOTS", "many", "IMAGEMILL_SLOTS: "),
        ("IMAGEMILL_SLOTS", "0", "greater than or equal to 1"),
        ("IMAGEMILL_ROUTE", "a b", "IMAGEMILL_ROUTE: "),
        ("IMAGEMILL_DTYPE", "int8", "'auto', 'fastest', 'fp16', 'bf16' or 'fp32'"),
    ],
)
def test_a_bad_setting_is_named_with_what_it_may_be(monkeypatch, name, value, says):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_secrets_are_in_no_message(monkeypatch):
    monkeypatch.setenv("IMAGEMILL_DATABASE_URL", "postgresql://user:hunter2@host/db")
    monkeypatch.setenv("IMAGEMILL_SLOTS", "many")
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("IMAGEMILL_SLOTS", "2")
    assert "hunter2" not in repr(Settings.load())
    assert without_password("redis://:hunter2@host:1/0") == "redis://:***@host:1/0"
    two = "redis://:hunter2@a:1/0;sentinel://u:hunter2@b:2/0"
    assert without_password(two) == "redis://:***@a:1/0;sentinel://u:***@b:2/0"
    option = "postgresql://app@host/mill?sslpassword=hunter2&connect_timeout=1"
    assert without_password(option) == option.replace("hunter2", "***")


def test_a_child_process_gets_the_same_settings(tmp_path, monkeypatch):
    settings = Settings.for_home(tmp_path, slots=4, broker_url="redis://:secret@host/0")
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == settings
