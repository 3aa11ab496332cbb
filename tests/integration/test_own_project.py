"""docs/own-project.md: what it renames and deletes leaves a project that works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.command import environment, tiny
from tests.integration.pages import blocks
from tests.paths import ROOT

RENAME, DELETE, CHECK = blocks("docs/own-project.md", "sh")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What git knows of this checkout, as a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    shell("git init -q && git add -A && git commit -qm first", tmp_path)
    return tmp_path


def shell(commands: str, folder: Path) -> str:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    author = {f"GIT_{who}_{what}": "me" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env=environment(PATH=programs, PYTHONPATH=str(folder / "src"), **author),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a clone of git's")
def test_what_is_renamed_and_deleted_leaves_a_project_that_works(clone: Path) -> None:
    shell(RENAME + DELETE, clone)
    assert "lightning_maml" not in shell("git grep -Il lightning_maml || true", clone)
    *checks, tests, train = CHECK.splitlines()
    shell("\n".join(checks), clone)
    some = "tests/unit/shell/test_overrides.py tests/unit/models tests/unit/algorithms"
    assert tests == "pytest" and train == "python src/run.py experiment=quickstart"
    shell(f"{tests} --collect-only -q", clone)
    shell(f"{tests} -n 0 -q {some}", clone)
    settings = " ".join(f"'{one}'" for one in tiny("logging=csv", "hydra.run.dir=run"))
    assert "Meta-test" in shell(f"python src/run.py {settings}", clone)
