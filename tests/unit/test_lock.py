"""requirements.txt against pyproject.toml, from which `make lock` writes it."""

import tomllib
from collections import defaultdict

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES = (ROOT / "requirements.txt").read_text().splitlines()
LOCK = [Requirement(line) for line in LINES]


def test_the_lock_has_one_version_of_all_that_pyproject_asks_for() -> None:
    versions = defaultdict(set)
    for pinned in LOCK:
        versions[canonicalize_name(pinned.name)] |= {one.version for one in pinned.specifier if one.operator == "=="}
    extras = PROJECT["project"]["optional-dependencies"]
    (together,) = (Requirement(line) for line in extras["all"])
    asked_for = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    for line in asked_for + [line for extra in together.extras for line in extras[extra]]:
        asked = Requirement(line)
        assert versions[canonicalize_name(asked.name)], f"{line} is not in the lock: make lock"
        assert all(map(asked.specifier.contains, versions[canonicalize_name(asked.name)])), f"{line}: make lock"


def test_what_uv_sync_is_told_is_the_lock() -> None:
    assert PROJECT["tool"]["uv"]["constraint-dependencies"] == LINES


def test_the_lock_names_no_place_to_fetch_from() -> None:
    assert "://" not in (ROOT / "requirements.txt").read_text()
