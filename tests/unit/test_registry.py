"""What the decorators collect, and what they refuse."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from daebus import Blueprint, Daebus
from daebus.errors import DeclarationError
from daebus.registry import Record, Registry, route_arguments


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


@pytest.mark.parametrize("seconds", [0, -1, True, "5", float("nan"), float("inf"), 1e10])
def test_the_time_after_which_a_thread_is_stuck_is_a_number_of_seconds_above_0(
    registry: Registry, seconds: Any
) -> None:
    with pytest.raises(DeclarationError, match="stuck_after must be a number of seconds above 0, or None for no limit"):
        registry.thread("t", stuck_after=seconds)


def test_a_thread_is_stuck_only_if_it_is_said_when(registry: Registry) -> None:
    registry.thread("without")(nothing)
    registry.thread("with", stuck_after=5)(nothing)
    assert [record.stuck_after for record in registry.records("thread")] == [None, 5.0]


def test_functions_for_a_reload_are_kept_in_order() -> None:
    def first() -> None:
        """Reloads."""

    app = Daebus("app")

    @app.on_reload
    def second() -> None:
        """Reloads, too."""

    blueprint = Blueprint("part")
    blueprint.on_reload()(first)
    app.register_blueprint(blueprint)
    app._close_book()
    assert [record.function for record in app.records("on_reload")] == [second, first]


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
        ("action", lambda percent: percent, "takes typed fields of the payload, or no arguments"),
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


# --- routes ---


def test_a_route_is_declared_for_each_of_its_methods(registry: Registry) -> None:
    assert registry.route("/a")(nothing) is nothing
    registry.route("/b", methods=["get", "POST"])(nothing)
    registry.route("/c", ("PUT",), inline=True)(nothing)
    assert registry.routes == dict.fromkeys(("GET /a", "GET /b", "POST /b", "PUT /c"), nothing)
    assert [record.inline for record in registry.records("route")] == [None, None, None, True]


def test_a_method_that_is_named_twice_is_one(registry: Registry) -> None:
    registry.route("/a", methods=["get", "GET", "Get"])(nothing)
    assert list(registry.routes) == ["GET /a"]


def test_a_path_may_be_declared_again_with_another_method(registry: Registry) -> None:
    registry.route("/a")(nothing)
    registry.route("/a", methods=["POST"])(nothing)
    with pytest.raises(DeclarationError, match=r"route 'POST /a' is declared twice"):
        registry.route("/a", methods=["PUT", "POST"])(nothing)


@pytest.mark.parametrize("methods", ["GET", [5], [None], [b"GET"], []])
def test_methods_are_a_list_of_names(registry: Registry, methods: Any) -> None:
    with pytest.raises(DeclarationError, match="methods"):
        registry.route("/a", methods=methods)


@pytest.mark.parametrize("path", ["a", "", None, 5, "/<", "/<a>/<a>", "/<what:a>", "/<int:>"])
def test_a_path_that_is_none_is_refused_where_it_is_declared(registry: Registry, path: Any) -> None:
    with pytest.raises(DeclarationError):
        registry.route(path)


def test_a_route_without_a_path_is_told_how_to_write_it(registry: Registry) -> None:
    with pytest.raises(DeclarationError, match=r'the decorator needs a path: write @app\.route\("/path"\)'):
        registry.route(nothing)  # type: ignore[arg-type]


class Handlers:
    def nothing(self) -> None:
        """A bound one has one argument fewer."""

    def request_and_value(self, _req: object, _number: int) -> None:
        """A bound one has one argument fewer."""

    def __call__(self, *_arguments: object) -> None:
        """Objects may be handlers, too."""


def passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    return wrapper


def with_a_request_of_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(req: object, *arguments: Any) -> Any:
        return function(req, *arguments)

    return wrapper


@pytest.mark.parametrize(
    ("function", "names", "expected"),
    [
        (lambda: None, (), ()),
        (lambda req: req, (), (None,)),
        (lambda anything: anything, (), (None,)),
        (lambda number: number, ("number",), ("number",)),
        (lambda req, number: (req, number), ("number",), (None, "number")),
        (lambda req, b, a: (req, a, b), ("a", "b"), (None, "b", "a")),
        (lambda b, a: (a, b), ("a", "b"), ("b", "a")),
        (lambda req, a, /, b: (req, a, b), ("a", "b"), (None, "a", "b")),
        (lambda *given: given, ("a",), (None, "a")),
        (lambda req, *given: (req, given), ("a", "b"), (None, "a", "b")),
        (lambda req, number, more=5: (req, number, more), ("number",), (None, "number")),
        (lambda req, number=5: (req, number), ("number",), (None, "number")),
        (lambda req=None: req, (), (None,)),
        (lambda req, *, more=5: (req, more), (), (None,)),
        (Handlers().nothing, (), ()),
        (Handlers().request_and_value, ("_number",), (None, "_number")),
        (Handlers(), ("a",), (None, "a")),
        (partial(nothing, 1), ("a",), (None, "a")),
        (passing_on(lambda: None), (), ()),
        (passing_on(lambda number: number), ("number",), ("number",)),
        (passing_on(passing_on(lambda req, number: (req, number))), ("number",), (None, "number")),
        (with_a_request_of_its_own(lambda req, number: (req, number)), ("number",), (None, "number")),
    ],
)
def test_a_route_is_called_with_what_its_function_asks_for(
    registry: Registry, function: Callable[..., Any], names: tuple[str, ...], expected: tuple[str | None, ...]
) -> None:
    assert route_arguments("GET /x", function, names) == expected
    path = "".join(f"/<{name}>" for name in names) or "/"
    assert registry.route(path)(function) is function
    values = {"number": 1, "_number": 1, "a": 2, "b": 3}
    function(*["request" if name is None else values[name] for name in expected])


@pytest.mark.parametrize(
    ("function", "names", "said"),
    [
        (lambda: None, ("number",), "(req, number)"),
        (lambda req: req, ("number",), "(req, number)"),
        (lambda req, other: (req, other), ("number",), "(req, number)"),
        (lambda number, req: (number, req), ("number",), "(req, number)"),
        (lambda req, number, more: (req, number, more), ("number",), "(req, number)"),
        (lambda req, more=5, number=0: (req, more, number), ("number",), "(req, number)"),
        (lambda req, other: (req, other), (), "(req)"),
        (lambda req, *, more: (req, more), (), "(req)"),
        (lambda *, number: number, ("number",), "(req, number)"),
        (passing_on(lambda other: other), ("number",), "(req, number)"),
    ],
)
def test_a_function_that_does_not_fit_its_path_is_refused(
    registry: Registry, function: Callable[..., Any], names: tuple[str, ...], said: str
) -> None:
    """When it is declared, not at each request."""
    path = "/" + "/".join(f"<{name}>" for name in names)
    with pytest.raises(DeclarationError, match=re.escape(f"must be a function of the arguments {said}")):
        registry.route(path)(function)
    assert registry.routes == {}


def test_a_cached_function_may_be_a_route(registry: Registry) -> None:
    registry.route("/")(functools.cache(lambda: "x"))
    assert list(registry.routes) == ["GET /"]


def test_routes_of_a_blueprint_are_taken_over() -> None:
    app, blueprint = Daebus("app"), Blueprint("b")
    blueprint.route("/a", ["GET", "POST"])(nothing)
    blueprint.static("/files", "folder")
    blueprint.socket("hello")(nothing)
    blueprint.before(lambda: None)
    app.register_blueprint(blueprint)
    app._close_book()
    for kind in ("route", "static", "socket", "before"):
        assert list(app.records(kind)) == list(blueprint.records(kind)) != []


# --- folders and sockets ---


def test_a_folder_is_kept_with_what_was_said_of_it() -> None:
    registry = Registry("some.module")
    registry.static("/files", "folder", index="home.html", max_age=60)
    (record,) = registry.records("static")
    assert record.name == "/files"
    place = record.subject.pop("place")
    assert record.subject == {"root": "folder", "index": "home.html", "max_age": 60, "module": "some.module"}
    assert place.startswith(f"{__file__}:")


@pytest.mark.parametrize("prefix", ["files", "", None, 5])
def test_the_path_of_a_folder_begins_with_a_slash(registry: Registry, prefix: Any) -> None:
    with pytest.raises(DeclarationError, match="the path of a folder begins with '/'"):
        registry.static(prefix, "folder")


def test_two_folders_for_one_path_are_one_too_many(registry: Registry) -> None:
    registry.static("/files", "one")
    with pytest.raises(DeclarationError, match="static '/files' is declared twice"):
        registry.static("/files", "two")


def test_sockets_and_their_hooks(registry: Registry) -> None:
    assert registry.socket("hello", inline=True)(nothing) is nothing
    for hook in (registry.socket_connect, registry.socket_disconnect, registry.socket_register):
        bare: object = hook(nothing)
        assert bare is nothing
        assert hook()(nothing) is nothing
    assert registry.socket_handlers == {"hello": nothing}
    for kind in ("socket_connect", "socket_disconnect", "socket_register"):
        assert len(list(registry.records(kind))) == 2


@pytest.mark.parametrize("message_type", ["", None, 5, "a\nb", "x" * 201])
def test_a_message_type_is_printable(registry: Registry, message_type: Any) -> None:
    with pytest.raises(DeclarationError, match="cannot be the name of a message type"):
        registry.socket(message_type)


def test_a_socket_without_a_type_is_told_how_to_write_it(registry: Registry) -> None:
    with pytest.raises(DeclarationError, match=r'write @app\.socket\("type"\)'):
        registry.socket(nothing)  # type: ignore[arg-type]


def test_a_blueprints_paths_may_have_a_prefix(registry: Registry) -> None:
    blueprint = Blueprint("lights", url_prefix="/lights")
    blueprint.route("/<int:n>", methods=["GET", "PUT"])(lambda n: n)
    blueprint.static("/pictures", "folder")
    assert list(blueprint.routes) == ["GET /lights/<int:n>", "PUT /lights/<int:n>"]
    assert [record.name for record in blueprint.records("static")] == ["/lights/pictures"]


@pytest.mark.parametrize("prefix", ["lights", "/lights/", "/", 5, None])
def test_a_prefix_that_makes_no_sense_is_refused(prefix: Any) -> None:
    with pytest.raises(DeclarationError, match="a url_prefix begins with"):
        Blueprint("lights", url_prefix=prefix)
