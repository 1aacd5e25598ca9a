"""Settings: where they come from, and what is said about a bad one."""

import pytest

from imagemill.db import given_settings
from imagemill.db.database import Database
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
        ("IMAGEMILL_SLOTS", "many", "unable to parse string as an integer; found 'many'"),
        ("IMAGEMILL_SLOTS", "9" * 70, "; found '99999"),
        ("IMAGEMILL_HANG_SECONDS", "1e300", "less than or equal to 3155760000; found '1e300'"),
        ("IMAGEMILL_PRUNE_DAYS", "1e9", "less than or equal to 36525; found '1e9'"),
        ("IMAGEMILL_SLOTS", "0", "greater than or equal to 1"),
        ("IMAGEMILL_ROUTE", "a b", "IMAGEMILL_ROUTE: "),
        ("IMAGEMILL_LEASE_SECONDS", "inf", "IMAGEMILL_LEASE_SECONDS: Input should be a finite"),
        ("IMAGEMILL_BROKER_URL", "redis://h:99999/0", "a port is a number up to 65535"),
        ("IMAGEMILL_BROKER_URL", "redis://[::1/0", "its host or port can't be read"),
        ("IMAGEMILL_BROKER_URL", "redis://h:1/zero", "the number of a database"),
        ("IMAGEMILL_S3_ENDPOINT_URL", "localhost:9000", "http://host:port or https://host"),
        ("IMAGEMILL_S3_ENDPOINT_URL", "http://h:99999", "a port is a number up to 65535"),
        ("IMAGEMILL_DTYPE", "int8", "'auto', 'fastest', 'fp16', 'bf16' or 'fp32'"),
    ],
)
def test_a_bad_setting_is_named_with_what_it_may_be(monkeypatch, name, value, says):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (b"slots = true", "IMAGEMILL_SLOTS: expected a number or a text, not true"),
        (b"max_worker_memory = true", "IMAGEMILL_MAX_WORKER_MEMORY: expected a number or a text"),
        (b"slot = 4", "there is no setting slot; did you mean slots?"),
        (b"slots = \n", "not TOML: Invalid value (at line 1, column 9)"),
        (b"a = " + b"[" * 3000, "not TOML: it is nested too deeply"),
        (b"\n\xe9 = 4", "byte 0xe9 at offset 1 (line 2) is not UTF-8"),
    ],
)
def test_what_is_wrong_in_a_settings_file_is_one_line(tmp_path, monkeypatch, written, says):
    file = tmp_path / "settings.toml"
    file.write_bytes(written)
    monkeypatch.setenv("IMAGEMILL_CONFIG", str(file))
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_settings_file_may_begin_with_a_byte_order_mark(tmp_path, monkeypatch):
    file = tmp_path / "settings.toml"
    file.write_bytes(b"\xef\xbb\xbfslots = 4\ncompile = true\nchannels_last = false\n")
    monkeypatch.setenv("IMAGEMILL_CONFIG", str(file))
    settings = Settings.load()
    assert (settings.slots, settings.compile, settings.channels_last) == (4, True, False)


def test_a_settings_file_that_is_named_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEMILL_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match=r"the settings file .*none\.toml: No such file"):
        Settings.load()


def test_part_of_a_password_is_in_no_message_about_a_port(monkeypatch):
    monkeypatch.setenv("IMAGEMILL_BROKER_URL", "redis://:hun/ter2@host:1/0")
    with pytest.raises(SettingsError, match="%2F") as caught:
        Settings.load()
    assert "hun" not in str(caught.value)
    assert without_password("redis://:hunter2@[::1/0") == "***"


@pytest.mark.parametrize("option", ["typo=1", "connect_timeout=soon"])
def test_an_option_that_libpq_has_not_is_the_address_that_is_wrong(option):
    database = Database(f"postgresql://me@127.0.0.1:1/mill?{option}")
    with pytest.raises(SettingsError, match=r"^IMAGEMILL_DATABASE_URL: "), database.reading():
        pass


def test_a_databases_port_is_a_number():
    with pytest.raises(SettingsError, match="IMAGEMILL_DATABASE_URL is not a SQLAlchemy URL"):
        Database("postgresql://me@host:port/mill")


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMAGEMILL_BROKER_URL", "redis://:hunter2@host:1/zero"),
        ("IMAGEMILL_S3_ENDPOINT_URL", "me:hunter2@host"),
    ],
)
def test_what_was_found_is_not_said_of_an_address(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        Settings.load()
    assert "hunter2" not in str(caught.value)


def test_every_wait_has_a_bound_that_clocks_can_hold():
    for name in Settings.model_fields:
        if name.endswith(("_seconds", "_days")):
            with pytest.raises(ValueError, match="less than or equal"):
                Settings(**{name: 1e12})


OTHERS = (
    *("API_KEY", "DRAIN_FILE", "EVENT", "EVENT_ID", "EVENT_JOB_ID", "EVENT_TYPE"),
    *("FLOWER_BASIC_AUTH", "GALLERY_TOKEN", "JOIN_TOKEN", "PROGRAM"),
)
"""Variables of ours that are no settings."""


def test_a_variable_that_is_almost_a_setting_is_warned_of_once(monkeypatch, caplog):
    given_settings._warn.cache_clear()
    for name in (*OTHERS, "SLOT", "Databse_Url", "CONFI", "OF_SOMEBODY_ELSE", "SLOTS"):
        monkeypatch.setenv(f"IMAGEMILL_{name}", "4")
    assert given_settings.named_database() == given_settings.DATABASE_URL
    one = [
        "IMAGEMILL_CONFI is no setting; did you mean IMAGEMILL_CONFIG?",
        "IMAGEMILL_DATABSE_URL is no setting; did you mean IMAGEMILL_DATABASE_URL?",
    ]
    assert caplog.messages == one
    assert Settings.load().slots == 4
    Settings.load()
    slot = "IMAGEMILL_SLOT is no setting; did you mean IMAGEMILL_SLOTS?"
    assert caplog.messages == [*one, slot]


def test_a_child_process_gets_the_same_settings(tmp_path, monkeypatch):
    settings = Settings.for_home(tmp_path, slots=4, broker_url="redis://:secret@host/0")
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == settings
