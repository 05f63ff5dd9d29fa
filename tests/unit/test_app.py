"""`Daebus`: its arguments, and what does not need a running service."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import daebus
from daebus import Blueprint, Daebus, DaebusHttp, context
from daebus.context import running_daemon, set_daemon
from daebus.errors import ConfigurationError, DaebusError, DeclarationError


@pytest.fixture
def app() -> Daebus:
    return Daebus("app")


def nothing(*_arguments: object) -> None:
    """A handler."""


@pytest.mark.parametrize("max_workers", [0, -1, 1001, True, "10", 2.0, None])
def test_the_number_of_workers_is_a_whole_number_up_to_1000(max_workers: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_workers must be a whole number from 1 to 1000, not"):
        Daebus("app", max_workers)


@pytest.mark.parametrize("seconds", [0, -1, True, "5", float("nan"), float("inf")])
def test_the_time_after_which_a_service_is_stuck_is_a_number_of_seconds_above_0(seconds: Any) -> None:
    with pytest.raises(DeclarationError, match="stuck_after must be a number of seconds above 0, or None for no limit"):
        Daebus("app", stuck_after=seconds)


def test_a_service_is_stuck_after_two_minutes_unless_it_is_said_otherwise() -> None:
    assert [Daebus("app", **given).stuck_after for given in ({}, {"stuck_after": 5}, {"stuck_after": None})] == [
        120.0, 5.0, None,
    ]  # fmt: skip


def test_an_application_has_what_handlers_use(app: Daebus) -> None:
    assert app.request is daebus.request
    assert app.response is daebus.response
    assert app.broadcast is daebus.broadcast
    assert app.cache is app.redis is context.cache
    assert app.logger is daebus.logger
    assert (app.name, app.max_workers, app.service, app.settings) == ("app", 10, None, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"service": ""}, "Service '' failed: '' cannot be a service name: a service name has"),
        ({"service": "a b"}, "Service 'a b' failed: 'a b' cannot be a service name"),
        ({"service": "a\nb"}, r"Service 'a\nb' failed: 'a\nb' cannot be a service name"),
        ({"service": None}, "Service 'None' failed: None cannot be a service name"),
        ({"service": "svc", "redis_port": 0}, "Service 'svc' failed: 0 is not a port"),
        ({"service": "svc", "redis_url": "http://h"}, "Service 'svc' failed: redis_url must begin with redis://"),
        ({"service": "svc", "redis_url": "redis://h", "redis_host": "h"}, "not both"),
        ({"service": "svc", "idle_exit": 0}, "idle_exit must be a number of seconds above 0, not 0"),
        ({"service": "svc", "idle_exit": True}, "idle_exit must be a number of seconds above 0, not True"),
        ({"service": "svc", "idle_exit": "60"}, "idle_exit must be a number of seconds above 0, not '60'"),
        ({"service": "svc", "idle_exit": float("nan")}, "idle_exit must be a number of seconds above 0, not nan"),
    ],
)
def test_a_setting_that_makes_no_sense_is_logged_and_ends_the_program(
    app: Daebus, arguments: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SystemExit) as caught:
        app.run(**arguments)
    assert caught.value.code == 1
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]
    assert said in caplog.messages[0]
    assert not app.is_running()
    assert running_daemon() is None


def test_a_variable_that_makes_no_sense_is_named(
    app: Daebus, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAEBUS_REDIS_URL", "nonsense")
    with pytest.raises(SystemExit):
        app.run("svc")
    assert "DAEBUS_REDIS_URL must begin with redis://" in caplog.text


def test_the_services_own_channel_is_not_for_listeners(app: Daebus, caplog: pytest.LogCaptureFixture) -> None:
    app.listen("svc")(nothing)
    with pytest.raises(SystemExit):
        app.run("svc", redis_url="unix:///nonexistent")
    assert "channel 'svc' is the service's own: use actions for it, not a listener" in caplog.text


def test_a_blueprint_that_declares_a_name_again_ends_the_program(app: Daebus, caplog: pytest.LogCaptureFixture) -> None:
    blueprint = Blueprint("b")
    blueprint.action("same")(nothing)
    app.action("same")(nothing)
    app.register_blueprint(blueprint)
    for _ in range(2):
        with pytest.raises(SystemExit):
            app.run("svc", redis_url="unix:///nonexistent")
    assert len(caplog.messages) == 2
    assert all("action 'same' is declared twice: at" in message for message in caplog.messages)


def test_a_name_that_did_not_start_is_not_told_as_declared_twice(app: Daebus, caplog: pytest.LogCaptureFixture) -> None:
    """A second attempt to run begins where the first ended."""
    first, second = Blueprint("first"), Blueprint("second")
    first.action("fine")(nothing)
    for blueprint in (first, second):
        blueprint.action(f"of {blueprint.name}")(nothing)
    second.action("fine")(nothing)
    app.register_blueprint(first).register_blueprint(second)
    for _ in range(2):
        with pytest.raises(SystemExit):
            app.run("svc", redis_url="unix:///nonexistent")
    assert "'fine'" in caplog.messages[0]
    assert caplog.messages[0] == caplog.messages[1]


def test_what_needs_a_running_service_says_so(app: Daebus) -> None:
    for use in (
        lambda: app.start_thread("t"),
        lambda: app.stop_thread("t"),
        lambda: app.threads,
        lambda: app.counts,
    ):
        with pytest.raises(DaebusError, match=r"the service does not run; call app\.run\(\) first"):
            use()


def test_stopping_what_does_not_run_is_no_error(app: Daebus) -> None:
    app.stop()
    assert not app.is_running()


def test_the_daemon_is_set_by_nothing_but_run(app: Daebus) -> None:
    assert running_daemon() is None
    set_daemon(None)
    assert app.service is None


def test_a_component_is_attached_and_given_back(app: Daebus) -> None:
    endpoint = DaebusHttp()
    assert app.attach(endpoint) is endpoint
    assert app.http is endpoint
    assert app.route("/status")(nothing) is nothing
    assert app.routes == {"GET /status": nothing}


def test_a_service_has_one_http_endpoint(app: Daebus) -> None:
    app.attach(DaebusHttp())
    with pytest.raises(ConfigurationError, match="a service has one HTTP endpoint"):
        app.attach(DaebusHttp())


def test_what_cannot_be_served_is_refused_at_the_start(app: Daebus, caplog: pytest.LogCaptureFixture) -> None:
    blueprint = Blueprint("pages")
    blueprint.route("/page")(nothing)
    app.register_blueprint(blueprint)
    with pytest.raises(SystemExit):
        app.run("svc")
    assert "route 'GET /page'" in caplog.text
    assert "app.attach(DaebusHttp())" in caplog.text


def test_what_cannot_be_attached_is_refused(app: Daebus) -> None:
    with pytest.raises(TypeError, match="a object cannot be attached"):
        app.attach(object())


def test_routes_and_sockets_want_something_attached(app: Daebus) -> None:
    with pytest.raises(RuntimeError, match="no HTTP endpoint is attached"):
        app.route("/status")
    with pytest.raises(RuntimeError, match="no WebSocket is attached"):
        app.socket("message")
