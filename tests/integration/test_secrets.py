"""Nothing of the environment or of `.env` is written: canaries in both, and a search of all that was.

The project is copied, for `.env` lies in its root.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from lightning_maml.data.sources.glyph_images import write_images
from tests.integration.command import environment, tiny
from tests.integration.wandb_file import records
from tests.paths import ROOT

CANARIES = {
    "WANDB_API_KEY": hashlib.sha1(b"canary").hexdigest(),
    "PGPASSWORD": 'it\'s a "canary" of many words',
    "GATE_PHRASE": "open sesame, canary",
}
PLAIN = "no-secret-at-all"  # as what stands in a YAML, and is recorded with the run

# A network that is given secrets, and keeps them.
KEEPS = """
from lightning_maml.models import Conv4

class Keeping(Conv4):
    def __init__(self, input_shape, num_outputs, told, **settings):
        super().__init__(input_shape, num_outputs, **settings)
        self.told = told
        assert None not in told and "" not in told
"""
MODEL = f"""
torch_module:
  _target_: keeps.Keeping
  num_filters: 4
  num_layers: 3
  told: ["${{oc.env:WANDB_API_KEY}}", "${{oc.env:PGPASSWORD}}", "${{oc.env:GATE_PHRASE}}", {PLAIN}]
"""
SMALL = tiny("model=keeps", "train.pl_trainer.max_epochs=1", "+train.note=${oc.env:PGPASSWORD}")


class Project:
    """A copy of the project; commands in it see the canaries, and write nowhere else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("src", "conf"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        (root / ".env").write_text(f'GATE_PHRASE="{CANARIES["GATE_PHRASE"]}"\nWANDB_ENTITY=some-university\n')
        (root / ".env").chmod(0o600)
        (root / "src/keeps.py").write_text(KEEPS)
        (root / "conf/model/keeps.yaml").write_text(MODEL)
        for name in ("home", "tmp"):
            (root / name).mkdir()

    def run(self, program: str, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """A command, whose output is kept beside what it writes."""
        home = {"HOME": str(self.root / "home"), "XDG_CACHE_HOME": str(self.root / "home/.cache")}
        canaries = {name: text for name, text in CANARIES.items() if name != "GATE_PHRASE"}
        done = subprocess.run(
            [sys.executable, f"src/{program}", *arguments],
            cwd=self.root,
            env=environment(**home, **canaries, TMPDIR=str(self.root / "tmp"), **env),
            capture_output=True,
            text=True,
            timeout=300,
        )
        number = len(list(self.root.glob("output*")))
        (self.root / f"output{number}").write_text(done.stdout + done.stderr)
        return done

    def holding(self, text: str) -> set[str]:
        """The files that hold a text, also packed, but for those that it was written into by hand."""
        own = {self.root / ".env", self.root / "conf/model/keeps.yaml"}
        files = [path for path in self.root.rglob("*") if path.is_file() and path not in own]
        return {
            str(path.relative_to(self.root))
            for path in files
            if text in str(path) or any(text.encode() in content for content in contents(path))
        }


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what is packed in them."""
    yield path.read_bytes()
    if zipfile.is_zipfile(path):  # a checkpoint
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    if path.suffix == ".wandb":
        yield from records(path.read_bytes())
    if path.suffix == ".png":
        with Image.open(path) as image:
            yield repr(image.info).encode()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("secrets"))


@pytest.mark.timeout(1200)
def test_nothing_of_the_environment_is_in_anything_that_was_written(tmp_path: Path) -> None:
    """And what is no secret is where a secret would be, so that the search is seen to see there."""
    project = Project(tmp_path)

    def expect(code: int, program: str, *arguments: str) -> None:
        done = project.run(program, *arguments)
        assert done.returncode == code, done.stdout + done.stderr

    loggers = ("logging=[wandb,tensorboard]", "logging.wandb.log_model=true")
    expect(0, "run.py", *SMALL, *loggers, "hydra.run.dir=one")
    expect(0, "run.py", "-m", *SMALL, "logging=csv", "train.seed=1", "hydra.sweep.dir=sweep")
    expect(1, "run.py", *SMALL, "train.matmul_precision=${oc.env:GATE_PHRASE}", "hydra.run.dir=refused")
    write_images(project.root / "letters", shots=1, queries=1)
    letters = [f"{kind}=letters/{kind}" for kind in ("support", "query")]
    project.run("adapt.py", "ckpt=one/checkpoints/best.ckpt", *letters, "output=adapted", "trusted=[keeps]")
    expect(0, "run.py", "model=keeps", "--cfg", "job")
    for text in CANARIES.values():
        assert project.holding(text) == set()
        assert project.holding(text.partition('"')[2] or text) == set()
    (job,) = (path.parent for path in project.root.glob("sweep/*/metrics.json"))
    (wandb,) = (project.root / "one/wandb").glob("offline-run-*")
    places = [
        *("one/checkpoints/best.ckpt", "one/checkpoints/last.ckpt", "one/tensorboard/hparams.yaml"),
        *(next(wandb.glob("run-*.wandb")), next((project.root / "one/tensorboard").glob("events*.0"))),
        *(job / "checkpoints/best.ckpt", "one/.hydra/config.yaml"),
    ]
    assert {str(project.root.joinpath(place).relative_to(project.root)) for place in places} <= project.holding(PLAIN)


@pytest.mark.parametrize(("mode", "warns"), [(0o644, True), (0o640, True), (0o600, False)])
def test_dotenv_that_others_may_read_is_warned_about(project: Project, mode: int, warns: bool) -> None:
    dotenv = project.root / ".env"
    dotenv.chmod(mode)
    try:
        done = project.run("run.py", "--cfg", "job")
    finally:
        dotenv.chmod(0o600)
    warning = f"warning: others on this machine may read {dotenv}: chmod 600 {dotenv}\n"
    assert done.returncode == 0 and done.stderr == (warning if warns else "")


def test_git_ignores_dotenv() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    ignored = subprocess.run(["git", "check-ignore", ".env"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout == ".env\n"
    tracked = subprocess.run(["git", "ls-files", ".env"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert tracked.stdout == ""
