"""Secrets never reach what is written: canaries in the environment, in `.env` and in a YAML, and a search of it all.

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
from omegaconf import OmegaConf
from PIL import Image

from lightning_maml.data.glyph_images import write_images
from tests.integration.command import environment, tiny
from tests.integration.wandb_file import records
from tests.paths import ROOT

KEY, PHRASE, PLAIN = hashlib.sha1(b"canary").hexdigest(), "open sesame, canary", "no-secret-at-all"

# A network that tells what it was given, everywhere that it can; and one that fails over it.
LEAKY = """
import logging, sys, warnings
from lightning_maml.models import Conv4

class Talking(Conv4):
    def __init__(self, input_shape, num_outputs, told, **settings):
        super().__init__(input_shape, num_outputs, **settings)
        self.told = told
        print("to stderr:", *told, file=sys.stderr)
        warnings.warn(f"a warning of {told}")
        logging.getLogger("leaky").warning("logged: %s", told)
        try:
            raise KeyError(*told)
        except KeyError:
            logging.getLogger("leaky").exception("with a traceback")

    def forward(self, x):
        print("while W&B reads along:", self.told)
        return super().forward(x)

class Failing(Conv4):
    def __init__(self, input_shape, num_outputs, told, **settings):
        raise RuntimeError(f"it was told {told}")
"""
MODEL = """
torch_module:
  _target_: leaky.Talking
  num_filters: 4
  num_layers: 3
  told: ["{key}", "${{oc.env:WANDB_API_KEY}}", "${{oc.env:GATE_PHRASE}}", "${{oc.env:PLAIN}}"]
"""
SMALL = tiny("model=leaky", "train.pl_trainer.max_epochs=1")
NOTE = "+train.note=${oc.env:GATE_PHRASE}"


class Project:
    """A copy of the project; commands in it see the canaries, and write nowhere else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("src", "conf"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        (root / ".env").write_text(f'GATE_PHRASE="{PHRASE}"\nWANDB_ENTITY=some-university\n')
        (root / ".env").chmod(0o600)
        (root / "src/leaky.py").write_text(LEAKY)
        (root / "conf/model/leaky.yaml").write_text(MODEL.format(key=KEY))
        for name in ("home", "tmp"):
            (root / name).mkdir()

    def run(self, program: str, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """A command, whose output is kept beside what it writes."""
        home = {"HOME": str(self.root / "home"), "XDG_CACHE_HOME": str(self.root / "home/.cache")}
        canaries = {"WANDB_API_KEY": KEY, "PLAIN": PLAIN, "TMPDIR": str(self.root / "tmp")}
        done = subprocess.run(
            [sys.executable, f"src/{program}", *arguments],
            cwd=self.root,
            env=environment(**home, **canaries, **env),
            capture_output=True,
            text=True,
            timeout=300,
        )
        number = len(list(self.root.glob("output*")))
        (self.root / f"output{number}").write_text(done.stdout + done.stderr)
        return done

    def holding(self, text: str) -> set[str]:
        """The files that hold a text, also packed, but for those that it was written into by hand."""
        own = {self.root / ".env", self.root / "conf/model/leaky.yaml"}
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


def run_everything(project: Project) -> None:
    def expect(code: int, program: str, *arguments: str, **env: str) -> None:
        done = project.run(program, *arguments, **env)
        assert done.returncode == code, done.stdout + done.stderr

    loggers = (
        "logging=[wandb,tensorboard]",
        "logging.wandb.log_model=true",
        "logging.wandb.name=${oc.env:GATE_PHRASE}",
    )
    expect(0, "run.py", *SMALL, *loggers, NOTE, "hydra.run.dir=one")
    targets = "model.torch_module._target_=leaky.Talking,leaky.Failing"
    expect(1, "run.py", "-m", *SMALL, "logging=csv", NOTE, targets, "hydra.sweep.dir=sweep")
    failing = (*SMALL, "model.torch_module._target_=leaky.Failing")
    expect(1, "run.py", *failing, "logging=csv", "hydra.run.dir=failed", HYDRA_FULL_ERROR="1")
    expect(1, "run.py", *SMALL, "train.matmul_precision=${oc.env:GATE_PHRASE}", "hydra.run.dir=refused")
    write_images(project.root / "letters", shots=1, queries=1)
    letters = [f"{kind}=letters/{kind}" for kind in ("support", "query")]
    expect(0, "adapt.py", "ckpt=one/checkpoints/best.ckpt", *letters, "output=adapted", "trusted=[leaky]")
    (job,) = (path.parent for path in project.root.glob("sweep/*/metrics.json"))
    expect(0, "compare.py", "one", str(job))
    expect(0, "prepare.py", "data=glyphs", "model=leaky", "hydra.run.dir=prepared")
    expect(0, "run.py", "model=leaky", "--cfg", "job", "--resolve")


@pytest.mark.timeout(1200)  # eight programs, each from its imports on, for a fork would share what W&B reads along
def test_secrets_are_in_nothing_that_was_written(tmp_path: Path) -> None:
    """And what is no secret is where a secret would be, so that the search is seen to see there."""
    project = Project(tmp_path)
    run_everything(project)
    assert project.holding(KEY) == set()
    assert project.holding(PHRASE) == set()
    assert places_that_were_told(project) <= project.holding(PLAIN)
    for mask in ("***WANDB_API_KEY***", "***GATE_PHRASE***"):
        assert places_that_were_told(project) <= project.holding(mask)
    # Hydra's copies of the configuration keep where a secret is looked up; the one that stands in a YAML is masked.
    copies = [path for path in project.root.rglob("config.yaml") if path.parent.name == ".hydra"]
    found = [OmegaConf.load(path) for path in [*copies, project.root / "sweep/multirun.yaml"]]
    told = [OmegaConf.to_container(cfg.model.torch_module.told, resolve=False) for cfg in found if "model" in cfg]
    names = ("WANDB_API_KEY", "GATE_PHRASE", "PLAIN")
    assert told == [["***WANDB_API_KEY***", *(f"${{oc.env:{name}}}" for name in names)]] * 7


def places_that_were_told(project: Project) -> set[str]:
    (job,) = (path.parent for path in project.root.glob("sweep/*/metrics.json"))
    (failed,) = (path.parent for path in project.root.glob("sweep/*/outcome.json") if path.parent != job)
    (wandb,) = (project.root / "one/wandb").glob("offline-run-*")
    places = [
        *("one/run.log", "one/checkpoints/best.ckpt", "one/checkpoints/last.ckpt", "one/tensorboard/hparams.yaml"),
        *(next(wandb.glob("run-*.wandb")), wandb / "files/output.log", wandb / "logs/debug.log"),
        next((project.root / "one/wandb/artifacts/staging").iterdir()),
        next((project.root / "one/tensorboard").glob("events*.0")),
        *(job / "run.log", job / "checkpoints/best.ckpt", failed / "run.log", failed / "outcome.json"),
        *("sweep/summary.csv", "sweep/summary.md", "adapted/classifier.pt"),
        *(f"output{number}" for number in (0, 1, 2, 4, 7)),
    ]
    return {str(project.root.joinpath(place).relative_to(project.root)) for place in places}


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        (f"+train.note={KEY}", "error: +train.note=***WANDB_API_KEY***: what is typed is written"),
        (f"logging.wandb.name=my {PHRASE}!", "error: logging.wandb.name=my ***GATE_PHRASE***!: what is typed"),
        ("+logging.wandb.api_key=0123456789abcdef", "error: +logging.wandb.api_key=***: what is typed is written"),
    ],
    ids=["the key", "in a text", "by its name"],
)
def test_a_secret_on_the_command_line_is_refused(project: Project, argument: str, line: str) -> None:
    done = project.run("run.py", argument, "hydra.run.dir=typed")
    assert done.returncode == 1 and done.stdout == "" and done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1 and "keep it in .env as NAME=…" in done.stderr
    assert not (project.root / "typed").exists()


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
