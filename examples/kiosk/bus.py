"""Which Redis the example uses: one that is there already, else a private one for as long as it runs.

As a program it prints the answer in one word - reachable, program or none - for the set-up script.
"""

from __future__ import annotations

from daebus.redisserver import find_server
from daebus.someredis import reachable


def in_one_word() -> str:
    if reachable():
        return "reachable"
    return "program" if find_server() else "none"


if __name__ == "__main__":
    print(in_one_word())
