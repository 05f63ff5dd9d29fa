"""`DaebusHttp`: what its settings may be, and what they become."""

from __future__ import annotations

from typing import Any

import pytest

from daebus import Daebus, DaebusHttp
from daebus.errors import ConfigurationError
from daebus.http import check_port
from daebus.httpdoor import Limits


def test_without_settings_only_this_device_is_served() -> None:
    http = DaebusHttp()
    assert (http.port, http.host, http.cors, http.allowed_hosts) == (8080, "127.0.0.1", None, ())
    for name in ("max_body", "max_header", "max_connections", "upload_memory", "idle_timeout", "write_timeout"):
        assert getattr(http.limits, name) == getattr(Limits, name)


def test_settings_become_limits() -> None:
    http = DaebusHttp(
        0, "0.0.0.0", max_body=1, max_header=2, max_connections=3, upload_memory=4,
        header_timeout=5, body_timeout=6.5, idle_timeout=7, write_timeout=8,
    )  # fmt: skip
    limits = http.limits
    assert (limits.max_body, limits.max_header, limits.max_connections, limits.upload_memory) == (1, 2, 3, 4)
    assert (limits.header_timeout, limits.body_timeout) == (5.0, 6.5)
    assert (limits.idle_timeout, limits.write_timeout) == (7.0, 8.0)
    assert Limits.max_body == 1024 * 1024  # those of others are as they were


@pytest.mark.parametrize("port", [-1, 65536, "8080", None, True, 80.0])
def test_a_port_is_a_number_of_ports(port: Any) -> None:
    with pytest.raises(ConfigurationError, match="port must be a number from 0 to 65535, not"):
        DaebusHttp(port)


def test_a_port_of_ones_own_is_not_0() -> None:
    assert check_port(1, "port") == 1
    with pytest.raises(ConfigurationError, match="the port must be a number from 1 to 65535, not 0"):
        check_port(0, "the port")


@pytest.mark.parametrize("host", [None, 5, b"127.0.0.1"])
def test_a_host_is_text(host: Any) -> None:
    with pytest.raises(ConfigurationError, match="host must be an address such as"):
        DaebusHttp(host=host)


@pytest.mark.parametrize("name", ["max_body", "max_header", "max_connections", "upload_memory"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "5", None])
def test_a_size_is_a_whole_number_above_0(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be a whole number above 0, not"):
        DaebusHttp(**{name: value})


@pytest.mark.parametrize("name", ["header_timeout", "body_timeout", "idle_timeout", "write_timeout"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "5", None, 1e9])
def test_a_time_is_a_number_of_seconds_above_0(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be a number of seconds above 0, not"):
        DaebusHttp(**{name: value})


def test_one_host_may_be_given_by_itself() -> None:
    assert DaebusHttp(allowed_hosts="panel").allowed_hosts == ("panel",)
    assert DaebusHttp(allowed_hosts=["a", "*.b"]).allowed_hosts == ("a", "*.b")


def test_cors_is_checked_at_once() -> None:
    assert DaebusHttp(cors_config={}).cors is not None
    for use in (DaebusHttp().configure_cors, lambda config: DaebusHttp(cors_config=config)):
        with pytest.raises(ConfigurationError, match="allowed_origin"):
            use({"allowed_origin": "*"})


def test_cors_may_be_configured_later() -> None:
    http = DaebusHttp()
    http.configure_cors({"allowed_origins": ["http://a.example"]})
    assert http.cors is not None
    assert http.cors.allows("http://a.example")


def test_routes_may_be_declared_with_it_once_it_is_attached() -> None:
    http, app = DaebusHttp(), Daebus("app")
    with pytest.raises(RuntimeError, match="attach the endpoint to a service first"):
        http.route("/x")
    app.attach(http)

    @http.route("/x", ["GET", "POST"])
    def handler() -> None:
        """A handler."""

    assert app.routes == {"GET /x": handler, "POST /x": handler}


def test_it_is_attached_to_one_service_as_often_as_one_likes() -> None:
    http, app = DaebusHttp(), Daebus("app")
    app.attach(http)
    app.attach(http)
    assert app.http is http
    with pytest.raises(ConfigurationError, match="has one HTTP endpoint"):
        app.attach(DaebusHttp())


def test_older_programs_may_start_and_stop_it() -> None:
    http = DaebusHttp()
    http.start()
    http.stop()


def test_several_endpoints_have_limits_of_their_own() -> None:
    small, large = DaebusHttp(max_body=1), DaebusHttp(max_body=2)
    assert (small.limits.max_body, large.limits.max_body) == (1, 2)
