"""What is in the packages, and what Debian's checker says about them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.packaging.debian import run
from tests.support import ROOT


def contents(packages: Path, name: str) -> list[str]:
    """The paths in a package, without those of folders."""
    lines = run("dpkg-deb", "--contents", *packages.glob(f"{name}_*.deb")).splitlines()
    return [line.split()[5].removeprefix(".") for line in lines if not line.startswith("d")]


def field(packages: Path, name: str, key: str) -> str:
    return run("dpkg-deb", "--field", *packages.glob(f"{name}_*.deb"), key).strip()


def test_lintian_has_nothing_to_say(packages: Path) -> None:
    """At its most talkative; what it is told to overlook has its reason beside it in packaging/debian."""
    changes = list(packages.glob("*.changes"))
    assert changes
    assert run("lintian", "--allow-root", "--pedantic", "--display-info", *changes) == ""


def test_the_unit_tests_ran_on_the_installed_files(packages: Path) -> None:
    log = (packages / "build.log").read_text(encoding="utf-8")
    assert re.search(r"\n\d{4,} passed(, \d+ (skipped|xfailed))* in ", log), "thousands of them"


def test_the_library_is_whole(packages: Path) -> None:
    """Every file of the library that git knows is in the package."""
    known = run("git", "ls-files", "daebus", "Daebus.py", "pytest_daebus.py").split()
    installed = set(contents(packages, "python3-daebus"))
    assert known
    assert [name for name in known if f"/usr/lib/python3/dist-packages/{name}" not in installed] == []


def test_the_kiosk_is_whole(packages: Path) -> None:
    """All but what starts it without systemd."""
    known = set(run("git", "ls-files", "examples/kiosk").split())
    names = {name.removeprefix("examples/kiosk/") for name in known} - {"README.md", "bus.py", "run.py"}
    installed = set(contents(packages, "daebus-kiosk"))
    assert [name for name in sorted(names) if f"/usr/share/daebus-kiosk/{name}" not in installed] == []


def test_the_command_has_its_page_and_its_completions(packages: Path) -> None:
    """They are made when the package is built."""
    assert set(contents(packages, "python3-daebus")) >= {
        "/usr/share/bash-completion/completions/daebus",
        "/usr/share/fish/vendor_completions.d/daebus.fish",
        "/usr/share/man/man1/daebus.1.gz",
        "/usr/share/zsh/vendor-completions/_daebus",
    }


def test_nothing_is_where_packages_have_no_business(packages: Path) -> None:
    for name in ("python3-daebus", "daebus-kiosk"):
        places = {"/".join(path.split("/")[:3]) for path in contents(packages, name)}
        assert places <= {"/etc/redis", "/usr/bin", "/usr/lib", "/usr/libexec", "/usr/sbin", "/usr/share"}


def test_what_python_needs_the_package_needs(packages: Path) -> None:
    needed = field(packages, "python3-daebus", "Depends").replace(",", " ").split()
    libraries = {"click", "h11", "hiredis", "redis", "sdnotify", "wsproto"}
    assert {f"python3-{name}" for name in libraries} <= set(needed)


def test_both_packages_have_the_version_of_the_project(packages: Path) -> None:
    version = run("dpkg-parsechangelog", "-l", ROOT / "packaging" / "debian" / "changelog", "-S", "Version").strip()
    for name in ("python3-daebus", "daebus-kiosk"):
        assert field(packages, name, "Version") == version
        assert field(packages, name, "Architecture") == "all"
