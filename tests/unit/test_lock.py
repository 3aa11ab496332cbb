"""requirements.txt against pyproject.toml, from which `make lock` writes it."""

import tomllib
from collections import defaultdict
from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = [Requirement(line) for line in (ROOT / "requirements.txt").read_text().splitlines()]


def test_the_lock_has_one_version_of_all_that_pyproject_asks_for() -> None:
    versions = defaultdict(set)
    for pinned in LOCK:
        versions[canonicalize_name(pinned.name)] |= {one.version for one in pinned.specifier if one.operator == "=="}
    for line in PROJECT["dependency-groups"]["run"] + PROJECT["dependency-groups"]["dev"]:
        asked = Requirement(line)
        assert versions[canonicalize_name(asked.name)], f"{line} is not in the lock: make lock"
        assert all(map(asked.specifier.contains, versions[canonicalize_name(asked.name)])), f"{line}: make lock"


def test_what_uv_and_pip_are_told_to_install_is_the_lock() -> None:
    """`uv sync` reads the package's metadata, and so would pip."""
    told = [Requirement(line) for line in distribution("lightning-maml").requires or [] if "extra ==" not in line]
    assert sorted(map(str, told)) == sorted(map(str, LOCK))


def test_the_lock_names_no_place_to_fetch_from() -> None:
    assert "://" not in (ROOT / "requirements.txt").read_text()
