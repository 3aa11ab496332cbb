"""What GitHub and pre-commit run, against the Makefile and pyproject.toml."""

import re
import tomllib

import yaml
from packaging.specifiers import SpecifierSet

from tests.paths import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()


def test_ci_and_make_know_every_python_that_is_supported() -> None:
    supported = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    versions = [f"3.{minor}" for minor in range(30) if f"3.{minor}.9" in supported]
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == versions
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make lint", "make test"]
    assert {f"python{version}" for version in versions} == set(re.findall(r"python3\.\d+", MAKEFILE))
    assert f"< (3, {int(versions[-1][2:]) + 1})" in MAKEFILE


def test_pre_commit_runs_the_linters_of_make_lint() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    recipe = re.findall(r"^lint:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[0]
    linters = re.findall(r"\$\(VENV\)/bin/(ruff \w+|[\w-]+)", recipe)
    assert [hook["entry"] for hook in repo["hooks"]] == [f".venv/bin/{name}" for name in dict.fromkeys(linters)]
