"""Where Redis is, and what a setting that makes no sense is answered with: never the password."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daebus import settings
from daebus.errors import ConfigurationError
from daebus.settings import RedisSettings, parse_url, redis_settings

NAMES = ("host", "port", "path", "username", "password", "db", "tls")
HUSH = "hush"
secrets = st.text(max_size=20)


def parts(found: RedisSettings) -> dict[str, Any]:
    """What differs from the defaults."""
    usual = RedisSettings()
    return {name: value for name in NAMES if (value := getattr(found, name)) != getattr(usual, name)}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without settings and without Daebus' package."""
    monkeypatch.delenv("DAEBUS_REDIS_URL", raising=False)
    monkeypatch.setattr(settings, "PACKAGED_SOCKET", "/nonexistent/redis-server.sock")


def test_nothing_said_is_the_usual_port_of_this_machine() -> None:
    found = redis_settings()
    assert (found.host, found.port, found.path) == ("localhost", 6379, None)


def test_the_packaged_instance_is_used_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "redis-server.sock"
    there.touch()
    monkeypatch.setattr(settings, "PACKAGED_SOCKET", str(there))
    assert redis_settings().path == str(there)


def test_the_environment_comes_before_the_package_and_arguments_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "PACKAGED_SOCKET", str(tmp_path))
    monkeypatch.setenv("DAEBUS_REDIS_URL", "redis://env:1")
    assert parts(redis_settings()) == {"host": "env", "port": 1}
    assert parts(redis_settings(url="redis://arg:2")) == {"host": "arg", "port": 2}
    assert parts(redis_settings(host="arg")) == {"host": "arg"}
    assert parts(redis_settings(port=3)) == {"port": 3}


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAEBUS_REDIS_URL", "")
    assert parts(redis_settings()) == {}


def test_a_url_beside_a_host_or_port_is_refused() -> None:
    for changes in ({"host": "h"}, {"port": 1}):
        with pytest.raises(ConfigurationError, match="not both"):
            redis_settings(url="redis://x", **changes)


@pytest.mark.parametrize("port", [0, -1, 65536, True, "6379", 1.0])
def test_a_port_is_a_number_up_to_65535(port: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a port: give a number from 1 to 65535"):
        redis_settings(port=port)


@pytest.mark.parametrize(
    ("url", "means"),
    [
        ("redis://", {}),
        ("redis://h", {"host": "h"}),
        ("redis://h:7000/3", {"host": "h", "port": 7000, "db": 3}),
        ("redis://h?db=4", {"host": "h", "db": 4}),
        ("redis://:p%40ss@h", {"host": "h", "password": "p@ss"}),
        ("redis://me:pw@h", {"host": "h", "username": "me", "password": "pw"}),
        ("redis://[::1]:7000", {"host": "::1", "port": 7000}),
        ("rediss://h", {"host": "h", "tls": {}}),
        ("rediss://h?ssl_ca_certs=/ca.pem", {"host": "h", "tls": {"ssl_ca_certs": "/ca.pem"}}),
        ("unix:///run/r.sock", {"path": "/run/r.sock"}),
        ("unix://me:pw@/run/r.sock?db=2", {"path": "/run/r.sock", "username": "me", "password": "pw", "db": 2}),
        ("unix:///a%20b", {"path": "/a b"}),
    ],
)
def test_a_url_stands_for(url: str, means: dict[str, Any]) -> None:
    assert parts(parse_url(url, "redis_url")) == means


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (5, "redis_url must be text"),
        ("", "redis_url must begin with redis://"),
        ("http://h", "redis_url must begin with redis://"),
        ("redis://h:99999", "is not a Redis URL"),
        ("redis://[h", "is not a Redis URL"),
        ("redis://h:0", "0 is not a port"),
        ("redis://h/x", "redis_url has no database number where one belongs"),
        ("redis://h/-1", "redis_url has no database number"),
        ("redis://h/²", "redis_url has no database number"),
        ("redis://h?shell=1", "unknown options (shell)"),
        ("redis://h?ssl_ca_certs=x", "unknown options (ssl_ca_certs)"),
        ("unix://", "names no socket"),
    ],
)
def test_a_url_that_makes_no_sense_is_told_why(url: object, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url, "redis_url")
    assert said in str(caught.value)


@given(st.text(max_size=60) | st.text(alphabet="redisunx:/@[]?#%=&0123456789.ab", max_size=40).map("redis://".__add__))
def test_no_text_makes_a_url_raise_anything_else(url: str) -> None:
    try:
        parse_url(url, "redis_url")
    except ConfigurationError:
        return


def test_a_database_number_of_any_length_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        parse_url("redis://h/" + "9" * 5000, "redis_url")


@pytest.mark.parametrize(
    "url",
    ["redis://me:hush/hush@h:6379", "redis://:hush#hush@h", "redis://me:1/hush@h:6379", "redis://:hush?x@h"],
)
def test_a_password_that_is_not_quoted_is_not_told_to_the_log(url: str) -> None:
    """`/`, `#` and `?` end the host part of a URL, so a password with one of them is a mistake that people make."""
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url, "redis_url")
    assert "hush" not in str(caught.value)


@given(secrets, secrets, st.integers(0, 99), st.sampled_from(["h", "::1", "10.0.0.1"]), st.integers(1, 65535))
def test_settings_survive_as_a_url(user: str, password: str, db: int, host: str, port: int) -> None:
    """redis-py gets them as one."""
    for tls in (None, {"ssl_check_hostname": "true", "ssl_ca_certs": "/a b&c"}):
        given_settings = RedisSettings(host, port, username=user or None, password=password, db=db, tls=tls)
        assert parse_url(given_settings.url, "x").key == given_settings.key


def test_the_hosts_name_is_checked_unless_it_is_said_otherwise() -> None:
    """Older versions of redis-py, which get the URL, would not check it by themselves."""
    assert parse_url(RedisSettings(tls={}).url, "x").tls == {"ssl_check_hostname": "true"}
    assert parse_url(RedisSettings(tls={"ssl_check_hostname": "no"}).url, "x").tls == {"ssl_check_hostname": "no"}


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=20), secrets)
def test_a_socket_path_survives_as_a_url(path: str, password: str) -> None:
    given_settings = RedisSettings(path=f"/{path}", password=password)
    assert parse_url(given_settings.url, "x").key == given_settings.key


def test_settings_are_shown_without_the_password() -> None:
    assert str(RedisSettings("h", 1, username="me", password=HUSH)) == "h:1"
    assert str(RedisSettings(path="/run/r.sock", password=HUSH)) == "/run/r.sock"


def test_settings_that_differ_in_anything_have_different_keys() -> None:
    different = [
        RedisSettings(),
        RedisSettings("h"),
        RedisSettings(port=1),
        RedisSettings(path="/p"),
        RedisSettings(username="u"),
        RedisSettings(password=HUSH),
        RedisSettings(db=1),
        RedisSettings(tls={}),
        RedisSettings(tls={"ssl_ca_certs": "x"}),
    ]
    assert len({each.key for each in different}) == len(different)
    assert RedisSettings("h").key == RedisSettings("h").key


def test_where_the_package_is_installed_its_redis_is_meant_even_while_it_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that starts while it is restarted must not wait at another one for ever."""
    monkeypatch.delenv("DAEBUS_REDIS_URL", raising=False)
    monkeypatch.setattr(settings, "PACKAGED_SOCKET", str(tmp_path / "redis.sock"))
    monkeypatch.setattr(settings, "PACKAGED_LOGIN", str(tmp_path / "service.env"))
    monkeypatch.setattr(settings, "PACKAGE", str(tmp_path / "redis-users"))
    assert redis_settings().path is None
    (tmp_path / "redis-users").touch()
    assert redis_settings().path == str(tmp_path / "redis.sock")
