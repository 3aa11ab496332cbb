"""What there is to choose: the Tab key, in a real bash; and how many files a run is composed of."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.command import environment, program
from tests.paths import ROOT

OMNIGLOT = [file.stem for file in (ROOT / "conf/experiment").glob("omniglot*.yaml")]

# What readline does when Tab is pressed at the end of $1.
PRESS_TAB = """
eval "$(python src/run.py -sc install=bash)"
COMP_LINE="$1" COMP_POINT=${#1} COMP_WORDS=($1)
[[ "$1" == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
hydra_bash_completion 2>/dev/null
printf "%s\\n" "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("mod", {"model=", "model."}),
        ("model=c", {"model=conv4", "model=conv4_small"}),
        ("algorithm=a", {"algorithm=anil"}),
        ("exp", {"experiment="}),
        ("experiment=om", {f"experiment={name}" for name in OMNIGLOT}),
        ("experiment=omniglot_anil_5way_1", {"experiment=omniglot_anil_5way_1shot"}),
        ("experiment=quickstart train.pl_trainer.max_e", {"train.pl_trainer.max_epochs="}),
        ("data=sinusoid data.datamodule.kshot.", {"data.datamodule.kshot.support=", "data.datamodule.kshot.query="}),
        ("-m optim=adam", {"optim=adam", "optim=adam_cosine", "optim=adam_halving", "optim=adamw_cosine"}),
    ],
)
def test_tab_offers_groups_members_and_settings(typed: str, offered: set[str], tmp_path: Path) -> None:
    python = tmp_path / "python"  # whatever this one is called
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", PRESS_TAB, "bash", f"python src/run.py {typed}"],
        cwd=ROOT,
        env=environment(PATH=f"{tmp_path}:{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == offered


def test_tab_does_not_wait_for_torch() -> None:
    code = (
        "import sys, runpy; sys.argv = ['src/run.py', '-sc', 'query=bash']\n"
        "runpy.run_path('src/run.py', run_name='__main__')\n"
        "assert not {'torch', 'wandb', 'matplotlib', 'numpy'} & set(sys.modules)"
    )
    line = "python src/run.py data.datamodule.nw"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(PYTHONPATH="src", COMP_LINE=line, COMP_POINT=str(len(line))),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "data.datamodule.nway="


def test_ten_files_compose_the_default_run() -> None:
    done = program("src/run.py", "--info", "defaults-tree")
    ours = done.stdout.partition("  default:\n")[2].splitlines()
    files = [line for line in ours if line.strip() not in ("_self_", "experiment: null", "")]
    assert done.returncode == 0 and 5 < len(files) + 1 <= 10, done.stdout
