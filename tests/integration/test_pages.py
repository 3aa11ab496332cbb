"""README.md and docs/: their links, code, numbers and names are true."""

import inspect
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_class

from tests.integration.command import succeed, tiny
from tests.integration.pages import PAGES, WRITTEN, blocks, headings, in_code, links
from tests.paths import ROOT

LONGEST = {"README.md": 250}
CONF = "".join(path.read_text() for path in (ROOT / "conf").rglob("*.yaml"))
PACKAGE = ROOT / "src/lightning_maml"


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {path.resolve() for path, _ in links("README.md")}
    assert {path.resolve() for path in (ROOT / "docs").glob("*.md")} <= linked


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for path, heading in links(page):
        assert path.exists(), path
        assert not heading or heading in headings(path), f"{path}#{heading}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_and_has_one_title(page: str) -> None:
    lines = PAGES[page].splitlines()
    assert len(lines) <= LONGEST.get(page, 120)
    text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1 and lines[0].startswith("# ")
    assert len(re.findall(r"^```", PAGES[page], re.MULTILINE)) % 2 == 0


@pytest.mark.parametrize("page", PAGES)
def test_files_modules_and_settings_that_a_page_names_exist(page: str) -> None:
    for text in in_code(page):
        for path in re.findall(r"(?<![\w/.-])(?:src|conf|tests|benchmarks|notebooks)/[\w/.-]*\w", text):
            own = re.search(r"one_rate|wide|moons|mlflow|both|pasted|my_project|NAME", path)
            assert own or (ROOT / path).exists() or any(ROOT.glob(f"{path}*")), path
        for module in re.findall(r"python -m ([\w.]+)", text):
            assert find_spec(module) is not None, module
        for setting in re.findall(r"(?:data|model|algorithm|inner_loop|optim|train|logging)(?:\.[a-z]\w*)+(?==)", text):
            assert re.search(rf"\b{setting.rpartition('.')[2]}\b", CONF), setting


def test_the_readmes_five_rows_are_those_of_the_results() -> None:
    rows = re.findall(r"^\| (\w+shot) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", PAGES["README.md"], re.MULTILINE)
    assert len(rows) == 5
    results = (ROOT / "docs/RESULTS.md").read_text().replace("**", "").splitlines()
    for name, *values in rows:
        written = [line for line in results if line.startswith(f"| {name} |") or line[2:].split(" |")[0] in name]
        assert any(all(f"| {value} |" in line for value in values) for line in written), name


def test_what_follows_a_meta_update_is_there() -> None:
    rows = re.findall(r"^\| \d+ \| (`.*?) \|", PAGES["docs/follow-one-meta-update.md"], re.MULTILINE)
    assert len(rows) > 15
    for row in rows:
        files = [ROOT / name if name.startswith(("src/", "conf/")) else PACKAGE / name for name in paths_in(row)]
        source = "".join(path.read_text() for path in files)
        for name in re.findall(r"`((?:\w+\.)?\w+)`", row):
            for part in name.split("."):
                assert re.search(rf"^\s*(class|def) {part}\b", source, re.MULTILINE), (row, part)


def paths_in(row: str) -> list[str]:
    return re.findall(r"`([\w/]+\.(?:py|yaml))`", row)


@pytest.mark.usefixtures("in_folder")
@pytest.mark.parametrize(
    "code", [*blocks("docs/follow-one-meta-update.md", "python"), blocks("docs/own-method.md", "python")[1]]
)
def test_code_that_needs_nothing_else(code: str) -> None:
    exec(compile(code, "page", "exec"), {"__name__": "__main__"})


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "module", "yaml_file", "arguments", "told"),
    [
        ("docs/data.md", "moons", "data/moons.yaml", ("data=moons",), "data: moons, 5-way 1-shot"),
        ("docs/own-method.md", "wide", "model/wide.yaml", ("model=wide",), "network: wide"),
    ],
)
def test_a_class_and_a_yaml_of_ones_own(
    page: str, module: str, yaml_file: str, arguments: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    (tmp_path / f"{module}.py").write_text(blocks(page, "python")[-1])
    write(tmp_path / "conf" / yaml_file, blocks(page, "yaml")[-1])
    search = f"hydra.searchpath=[file://{tmp_path}/conf]"
    output = succeed(*tiny(*arguments, "logging=csv", search), folder=tmp_path / "run", PYTHONPATH=str(tmp_path))
    assert told in output and "Meta-test" in output


@pytest.mark.slow
def test_tensorboard_beside_wandb(tmp_path: Path) -> None:
    write(tmp_path / "conf/logging/both.yaml", blocks("docs/wandb.md", "yaml")[0])
    succeed(*tiny("logging=both", f"hydra.searchpath=[file://{tmp_path}/conf]"), folder=tmp_path / "run")
    assert list((tmp_path / "run/wandb").glob("offline-run-*")) and list((tmp_path / "run/tensorboard").glob("events*"))
    assert (tmp_path / "run/metrics.csv").exists()


def test_six_lines_of_yaml_for_mlflow() -> None:
    """MLflow itself is not in the lock."""
    block = blocks("docs/wandb.md", "yaml")[1]
    assert len(block.splitlines()) <= 6
    arguments: dict[str, Any] = yaml.safe_load(block)["mlflow"]
    logger = get_class(arguments.pop("_target_"))
    inspect.signature(logger).bind(**arguments)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_no_page_promises_what_has_gone() -> None:
    for page, text in PAGES.items():
        for gone in ("last.previous", ".broken", "***WANDB", "OWNER", "lightning_maml.callbacks", "faults_report"):
            assert gone not in text, (page, gone)
    assert {"RESULTS.md", "LICENCES.md"} == set(WRITTEN)
