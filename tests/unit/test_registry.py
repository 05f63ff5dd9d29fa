"""What the decorators collect, and what they refuse."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from daebus import Blueprint, Daebus
from daebus.errors import DeclarationError
from daebus.registry import Record, Registry


@pytest.fixture
def registry() -> Registry:
    return Registry("here")


def nothing(*_arguments: object) -> None:
    """A handler."""


def place(function: Callable[..., Any]) -> str:
    return f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"


def declare_everything(registry: Registry) -> None:
    registry.action("act", inline=True)(nothing)
    registry.listen("news.*", inline=False)(nothing)
    registry.background("tick", 2)(nothing)
    registry.thread("loop", auto_start=False)(nothing)
    registry.on_start()(nothing)
    registry.on_stop()(nothing)


def test_a_decorator_gives_the_function_back(registry: Registry) -> None:
    for decorate in (
        registry.action("a"),
        registry.listen("c"),
        registry.background("t", 1),
        registry.thread("th"),
        registry.on_start(),
        registry.on_stop(),
    ):
        assert decorate(nothing) is nothing


def test_what_is_declared_is_found_by_its_kind(registry: Registry) -> None:
    declare_everything(registry)
    assert registry.action_handlers == {"act": nothing}
    assert registry.listen_handlers == {"news.*": nothing}
    assert registry.background_tasks["tick"].interval == 2.0
    assert registry.thread_tasks["loop"].auto_start is False
    assert registry.on_start_handlers == [nothing]
    assert [record.function for record in registry.records("on_stop")] == [nothing]
    assert [record.inline for kind in ("action", "listen") for record in registry.records(kind)] == [True, False]


def test_one_name_may_stand_for_several_kinds(registry: Registry) -> None:
    registry.action("a")(nothing)
    registry.listen("a")(nothing)
    registry.background("a", 1)(nothing)
    registry.thread("a")(nothing)
    assert [len(list(registry.records(kind))) for kind in ("action", "listen", "background", "thread")] == [1] * 4


def test_one_function_may_serve_several_names(registry: Registry) -> None:
    registry.action("b")(nothing)
    registry.action("a")(nothing)
    assert list(registry.action_handlers) == ["b", "a"]


@pytest.mark.parametrize("kind", ["action", "listen", "background", "thread"])
def test_a_second_declaration_names_both_places(registry: Registry, kind: str) -> None:
    def second(*_arguments: object) -> None:
        """Another handler."""

    declare = partial(registry.background, interval=1) if kind == "background" else getattr(registry, kind)
    declare("same")(nothing)
    with pytest.raises(DeclarationError) as caught:
        declare("same")(second)
    assert str(caught.value) == f"{kind} 'same' is declared twice: at {place(nothing)} and at {place(second)}"


def test_hooks_may_be_many(registry: Registry) -> None:
    for _ in range(3):
        registry.on_start(nothing)
        registry.on_stop()(nothing)
    assert registry.on_start_handlers == [nothing] * 3


def test_hooks_need_no_parentheses(registry: Registry) -> None:
    for hook in (registry.on_start, registry.on_stop):
        returned: object = hook(nothing)
        assert returned is nothing


@pytest.mark.parametrize("kind", ["action", "listen", "thread"])
def test_the_other_decorators_without_a_name_are_refused(registry: Registry, kind: str) -> None:
    with pytest.raises(DeclarationError):
        getattr(registry, kind)(nothing)
    assert not list(registry.records(kind))


def test_an_action_without_a_name_is_told_how_to_write_it(registry: Registry) -> None:
    with pytest.raises(DeclarationError, match=r'the decorator needs a name: write @app\.action\("name"\)'):
        registry.action(nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [None, 5, "text"])
def test_what_cannot_be_called_is_no_handler(registry: Registry, function: Any) -> None:
    with pytest.raises(DeclarationError, match="the action handler 'a' must be a function, not"):
        registry.action("a")(function)


@pytest.mark.parametrize("interval", [0, -1, True, "5", None, float("nan"), float("inf"), 1e10])
def test_an_interval_is_a_number_of_seconds_above_0(registry: Registry, interval: Any) -> None:
    with pytest.raises(DeclarationError, match="the interval of task 't' must be a number of seconds above 0"):
        registry.background("t", interval)


@pytest.mark.parametrize("inline", ["yes", 2, 0, 1, 0.0])
def test_inline_is_true_or_false_or_left_out(registry: Registry, inline: Any) -> None:
    """`inline=0` would pass for "not given" in one place and for "True" in another."""
    with pytest.raises(DeclarationError, match="inline must be True, False or left out, not"):
        registry.action("a", inline=inline)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, None, 4])
def test_tasks_and_threads_have_printable_names(registry: Registry, name: Any) -> None:
    with pytest.raises(DeclarationError, match="cannot be the name of a task"):
        registry.background(name, 1)
    with pytest.raises(DeclarationError, match="cannot be the name of a thread"):
        registry.thread(name)


def test_a_record_cannot_be_changed() -> None:
    record = Record("action", "a", nothing)
    with pytest.raises(AttributeError, match=r"a declared handler cannot be changed \(name\)"):
        record.name = "b"


def test_a_place_is_known_for_whatever_can_be_called() -> None:
    assert Record("action", "a", nothing).place == place(nothing)
    assert "partial" in Record("action", "a", partial(nothing)).place


# --- the service and its blueprints ---


def test_after_the_start_it_is_too_late() -> None:
    app = Daebus("app")
    app._close_book()
    for declare in (app.action("a"), app.listen("a"), app.background("a", 1), app.thread("a"), app.on_start()):
        with pytest.raises(DeclarationError, match=r"comes too late: declare handlers before app\.run\(\)"):
            declare(nothing)


def test_what_comes_too_late_is_named_with_its_place() -> None:
    app = Daebus("app")
    app._close_book()
    with pytest.raises(DeclarationError) as caught:
        app.action("late")(nothing)
    assert str(caught.value).startswith(f"action 'late' ({place(nothing)}) comes too late")


def test_a_blueprint_may_be_registered_before_or_after_it_has_handlers() -> None:
    app, early, late = Daebus("app"), Blueprint("early"), Blueprint("late")
    early.action("early")(nothing)
    app.register_blueprint(early).register_blueprint(late)
    app.action("own")(nothing)
    late.action("late")(nothing)
    app._close_book()
    assert set(app.action_handlers) == {"own", "early", "late"}


def test_all_kinds_of_a_blueprints_handlers_are_taken_over() -> None:
    app, blueprint = Daebus("app"), Blueprint("b")
    app.register_blueprint(blueprint)
    declare_everything(blueprint)
    app._close_book()
    for kind in ("action", "listen", "background", "thread", "on_start", "on_stop"):
        assert list(app.records(kind)) == list(blueprint.records(kind)) != []


def test_a_blueprint_registered_twice_is_taken_over_once() -> None:
    app, blueprint = Daebus("app"), Blueprint("b")
    blueprint.action("a")(nothing)
    app.register_blueprint(blueprint).register_blueprint(blueprint)
    app._close_book()
    assert set(app.action_handlers) == {"a"}


def test_a_name_of_two_blueprints_is_declared_twice() -> None:
    app, one, other = Daebus("app"), Blueprint("one"), Blueprint("other")

    @other.action("same")
    def of_the_other() -> None:
        """Another handler."""

    one.action("same")(nothing)
    app.register_blueprint(one).register_blueprint(other)
    with pytest.raises(DeclarationError) as caught:
        app._close_book()
    assert str(caught.value).endswith(f"at {place(nothing)} and at {place(of_the_other)}")


def test_a_blueprint_of_a_running_service_is_closed_too() -> None:
    app, blueprint = Daebus("app"), Blueprint("b")
    app.register_blueprint(blueprint)
    app._close_book()
    with pytest.raises(DeclarationError, match="too late"):
        blueprint.action("late")(nothing)


def test_a_blueprint_may_not_be_registered_too_late() -> None:
    """Its handlers would never be called, and nobody would be told."""
    app = Daebus("app")
    app._close_book()
    with pytest.raises(DeclarationError, match="too late"):
        app.register_blueprint(Blueprint("late"))


def test_one_blueprint_may_serve_two_services() -> None:
    blueprint = Blueprint("b")
    blueprint.action("a")(nothing)
    for app in (Daebus("one"), Daebus("two")):
        app.register_blueprint(blueprint)
        app._close_book()
        assert set(app.action_handlers) == {"a"}


def test_only_blueprints_can_be_registered() -> None:
    with pytest.raises(DeclarationError, match="is not a Blueprint"):
        Daebus("app").register_blueprint(Registry("r"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "function", "said"),
    [
        ("action", lambda payload: payload, "takes no arguments: it reads `request.payload`"),
        ("listen", lambda: None, "takes the payload"),
        ("listen", lambda *, payload: payload, "takes the payload"),
        ("thread", lambda: None, "takes one argument, `running`"),
        ("on_start", lambda app: None, "takes no arguments"),
    ],
)
def test_a_function_that_cannot_be_called_so_is_refused(
    registry: Registry, kind: str, function: Callable[..., object], said: str
) -> None:
    """When it is declared, not at each message."""
    declare = getattr(registry, kind)
    with pytest.raises(DeclarationError, match=re.escape(said)):
        declare(function) if kind == "on_start" else declare("name")(function)
