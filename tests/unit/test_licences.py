"""docs/LICENCES.md lists the lock: what it installs on Linux, with one of the supported Pythons."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import ROOT

LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "os_name": "posix", "platform_system": "Linux"}
CPYTHON = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}


def licences() -> dict[tuple[str, str], str]:
    """The licence of each package, by its name and version."""
    rows = [re.split(r"\s*\|\s*", line) for line in (ROOT / "docs/LICENCES.md").read_text().splitlines()[2:]]
    return {(canonicalize_name(name), version): licence for _, name, version, licence, _ in rows}


def locked(python: str) -> set[tuple[str, str]]:
    """What the lock installs with a Python on Linux."""
    environment = {"python_version": python.rpartition(".")[0], "python_full_version": python, **LINUX, **CPYTHON}
    lock = [Requirement(line) for line in (ROOT / "requirements.txt").read_text().splitlines()]
    chosen = [one for one in lock if one.marker is None or one.marker.evaluate(environment)]
    return {(canonicalize_name(one.name), str(one.specifier).removeprefix("==")) for one in chosen}


def test_it_lists_exactly_what_the_lock_installs() -> None:
    listed = set(licences())
    nearest = min(
        (locked(python) for python in ("3.11.9", "3.12.9", "3.13.9", "3.14.9")), key=lambda one: len(one ^ listed)
    )
    if listed != nearest:
        pytest.fail(f"not as the lock has it: {sorted(listed ^ nearest)}; make licences")


def test_what_is_only_in_the_lock_for_other_systems_is_in_the_readme() -> None:
    names = {canonicalize_name(Requirement(line).name) for line in (ROOT / "requirements.txt").read_text().splitlines()}
    others = names - {name for name, _ in licences()}
    (said,) = re.findall(r"Other systems also install\s+(.*?)\.", (ROOT / "docs/trust.md").read_text(), re.DOTALL)
    assert set(re.findall(r"([\w-]+) \(", said)) == others


def test_those_that_bind_changes_of_their_own_files_are_in_the_readme() -> None:
    binding = {name for (name, _), licence in licences().items() if re.search(r"MPL|Mozilla", licence)}
    (said,) = re.findall(r"^\| MPL-2\.0.*? \| (.*?) \|$", (ROOT / "docs/trust.md").read_text(), re.MULTILINE)
    assert set(said.split(", ")) == binding


def test_no_licence_binds_what_uses_it() -> None:
    """No GPL; and of what says nothing, one is known: CUDA's meta-package, which holds no file."""
    assert not [name for name, licence in licences().items() if re.search(r"GPL|GNU", licence)]
    assert [name for (name, _), licence in licences().items() if not licence or licence == "UNKNOWN"] == [
        "cuda-toolkit"
    ]
