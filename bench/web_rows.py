"""The rows of the doors for a browser: HTTP, WebSocket, what they cost in memory, and starting with them."""

from __future__ import annotations

from .rows import Goal, Row
from .scenes import Scene
from .web_scenes import doors, idle_crowd, lazy_modules, messages, requests, web_start

HTTP = ("upstream", "waitress", "gunicorn", "uvicorn", "aiohttp", "ours")
SOCKETS = ("upstream", "websockets-tasks", "websockets-threads", "uvicorn", "ours")
REQUESTS = (
    *(("post", connections) for connections in (1, 16, 64)),
    *(("get", connections) for connections in (1, 16, 64)),
    ("heads", 16),
)
CLIENTS = (1, 8, 50)

WEB_SCENES: dict[str, Scene] = {
    **{
        f"{subject} {kind} {connections}": requests(subject, kind, connections)
        for kind, connections in REQUESTS
        for subject in HTTP
    },
    **{f"{subject} sockets {clients}": messages(subject, clients) for clients in CLIENTS for subject in SOCKETS},
    **{f"{subject} http": doors(subject, "http") for subject in ("upstream", "ours")},
    **{f"{subject} doors": doors(subject, "sockets") for subject in ("upstream", "ours")},
    **{f"{subject} 500 requests": idle_crowd(subject, "requests") for subject in ("uvicorn", "aiohttp", "ours")},
    **{f"{subject} 500 sockets": idle_crowd(subject, "sockets") for subject in SOCKETS},
    "ours lazy": lazy_modules(),
    **{f"{subject} web start": web_start(subject) for subject in HTTP},
}
"""In the order in which one round runs them: what is compared stands side by side."""

HTTP_GOALS = (
    Goal(">=", 6, "upstream"),
    Goal(">=", 4, "waitress"),
    Goal(">=", 1, "uvicorn"),
    Goal(">=", 1, "aiohttp"),
)
REQUEST_WORDS = {
    "post": "HTTP, JSON echoed",
    "get": "HTTP, JSON fetched",
    "heads": "HTTP, JSON echoed, each head another",
}


def of(subjects: tuple[str, ...], scene: str) -> dict[str, str]:
    return {subject: f"{subject} {scene}" for subject in subjects}


def connections_words(count: int) -> str:
    return "1 connection" if count == 1 else f"{count} connections"


def request_row(kind: str, connections: int) -> Row:
    what = f"{REQUEST_WORDS[kind]}, {connections_words(connections)}: rate"
    return Row(f"http-{kind}-{connections}", what, "rate", "/s", of(HTTP, f"{kind} {connections}"), HTTP_GOALS)


def message_row(figure: str, clients: int) -> Row:
    sign, unit = (">", "/s") if figure == "rate" else ("<", "µs")
    what = f"WebSocket, JSON echoed, {connections_words(clients)}: {figure}"
    goal = Goal(sign, 1, SOCKETS[:-1])
    return Row(f"ws-{figure}-{clients}", what, figure, unit, of(SOCKETS, f"sockets {clients}"), (goal,))


HTTP_MEMORY = of(("upstream", "ours"), "http")
DOORS_MEMORY = of(("upstream", "ours"), "doors")
REQUEST_CROWD = of(("uvicorn", "aiohttp", "ours"), "500 requests")
SOCKET_CROWD = of(SOCKETS, "500 sockets")
START = of(HTTP, "web start")

WEB_ROWS = (
    *(request_row(kind, connections) for kind, connections in REQUESTS),
    *(message_row(figure, clients) for clients in CLIENTS for figure in ("p50", "rate")),
    Row("http-rss", "HTTP attached: more resident memory", "more_rss", "MB", HTTP_MEMORY),
    Row("http-uss", "HTTP attached: more unique memory", "more_uss", "MB", HTTP_MEMORY),
    Row("http-threads", "HTTP attached: threads", "threads", "", HTTP_MEMORY),
    Row(
        "doors-rss",
        "HTTP and WebSocket attached: more resident memory",
        "more_rss",
        "MB",
        DOORS_MEMORY,
        (Goal("<=", 6, text="6 MB"),),
    ),
    Row("doors-uss", "HTTP and WebSocket attached: more unique memory", "more_uss", "MB", DOORS_MEMORY),
    Row("doors-used-rss", "after a request and a message: more resident memory", "used_rss", "MB", DOORS_MEMORY),
    Row("doors-all-rss", "HTTP and WebSocket attached: resident memory in all", "rss", "MB", DOORS_MEMORY),
    Row("doors-threads", "HTTP and WebSocket attached: threads", "threads", "", DOORS_MEMORY),
    Row("requests-rss", "500 idle HTTP connections: more resident memory", "more_rss", "MB", REQUEST_CROWD),
    Row("requests-threads", "500 idle HTTP connections: threads", "threads", "", REQUEST_CROWD),
    Row(
        "sockets-rss",
        "500 idle WebSocket clients: more resident memory",
        "more_rss",
        "MB",
        SOCKET_CROWD,
        (Goal("<=", 16, text="16 MB"),),
    ),
    Row("sockets-uss", "500 idle WebSocket clients: more unique memory", "more_uss", "MB", SOCKET_CROWD),
    Row("sockets-all-rss", "500 idle WebSocket clients: resident memory in all", "rss", "MB", SOCKET_CROWD),
    Row("sockets-threads", "500 idle WebSocket clients: threads", "threads", "", SOCKET_CROWD),
    Row(
        "lazy",
        "modules of h11 and wsproto imported without doors",
        "modules",
        "",
        {"ours": "ours lazy"},
        (Goal("<=", 0),),
    ),
    Row("http-start", "exec to the first HTTP answer", "answer", "ms", START),
    Row("http-ready", "exec to READY with HTTP attached", "ready", "ms", {"ours": START["ours"]}),
)
