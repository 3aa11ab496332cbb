"""notebooks/lightning_maml.ipynb: executed with small sizes, and what is saved in it."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from tests.integration.command import job_folder
from tests.paths import ROOT

NOTEBOOK = ROOT / "notebooks" / "lightning_maml.ipynb"
INSTALL = (ROOT / "docs/install.md").read_text()
SAVED = nbformat.read(NOTEBOOK, as_version=4)


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook: NotebookNode) -> str:
    return "".join(output.text for cell in code(notebook) for output in cell.outputs if output.output_type == "stream")


def pictures(notebook: NotebookNode) -> list[Image.Image]:
    """Every PNG among the outputs, decoded."""
    data = [output.get("data", {}) for cell in code(notebook) for output in cell.outputs]
    return [Image.open(io.BytesIO(base64.b64decode(each["image/png"]))) for each in data if "image/png" in each]


def recognized(notebook: NotebookNode) -> list[tuple[int, int, int]]:
    """Inner steps and percent of the drawings that the network recognizes, and that an untrained one does."""
    found = re.findall(r"inner steps (\d): accuracy (\d+)%, untrained (\d+)%", printed(notebook))
    return [(int(steps), int(trained), int(untrained)) for steps, trained, untrained in found]


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[NotebookNode, Path]:
    """The notebook after a run with small sizes, in a copy of what it needs, and the folder that it made there."""
    copy = tmp_path_factory.mktemp("notebook")
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (copy / "notebooks").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUICK", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(copy / name))
        client = NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(copy / "notebooks")}}
        )
        client.execute()
    (folder,) = (copy / "experiments/notebook").iterdir()
    return notebook, folder


def numbers(folder: Path, name: str) -> float:
    return float(json.loads((folder / "metrics.json").read_text())[f"metatest/{name}"])


@pytest.mark.timeout(400)
def test_every_section_leaves_what_it_shows(executed: tuple[NotebookNode, Path]) -> None:
    notebook, folder = executed
    text = printed(notebook)
    assert len(re.findall(r"Meta-test, 2[05] tasks", text)) == 3
    for name in ("maml", "coarse", "sinusoid", "sweep"):
        assert (folder / name / "live.png").exists()
    for steps in (1, 3):
        job = job_folder(folder / "sweep", f"algorithm.num_inner_steps={steps}")
        accuracy, interval = (numbers(job, name) for name in ("outer_accuracy", "outer_accuracy_ci95"))
        assert f"inner steps {steps}: accuracy {accuracy:.1%} ± {interval:.1%}" in text
    assert len(list((folder / "drawings/query").glob("*/*.png"))) == 40
    assert [steps for steps, _, _ in recognized(notebook)] == [0, 1, 2, 5]
    # curves, episode, adaptation; sweep; curves, episode; curves, fits; drawings, predictions
    assert len(pictures(notebook)) == len(pictures(SAVED)) == 10


@pytest.mark.timeout(400)
def test_the_yaml_written_in_the_notebook_is_what_ran(executed: tuple[NotebookNode, Path]) -> None:
    _, folder = executed
    text = (folder / "coarse/run.log").read_text()
    assert "data: coarse_glyphs, 10-way 1-shot" in text
    network = re.findall(r"network: conv4_small, ([\d,]+) parameters", text + (folder / "maml/run.log").read_text())
    assert int(network[0].replace(",", "")) != int(network[1].replace(",", ""))


@pytest.mark.timeout(400)
def test_nothing_chatters(executed: tuple[NotebookNode, Path]) -> None:
    """Neither warnings nor anything else on stderr, in this run or the saved one."""
    for notebook in (executed[0], SAVED):
        outputs = [output for cell in code(notebook) for output in cell.outputs]
        assert not [output for output in outputs if output.get("name") == "stderr"]
        assert "Warning" not in printed(notebook)


def test_the_saved_outputs_are_those_of_one_run_from_top_to_bottom() -> None:
    assert [cell.execution_count for cell in code(SAVED)] == list(range(1, len(code(SAVED)) + 1))
    assert all(output.output_type != "error" for cell in code(SAVED) for output in cell.outputs)
    counts = [
        (output.execution_count, cell.execution_count)
        for cell in code(SAVED)
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]
    assert counts and all(one == other for one, other in counts)
    for line in ("{train: 50, val: 5, test: 15}", "python src/run.py -m algorithm.num_inner_steps=1,3,5"):
        assert line in re.sub(r"\s*\\\n\s*", " ", printed(SAVED))  # of the full size, and by these cells


def test_the_saved_run_learned_what_the_text_says() -> None:
    tables = re.findall(r"│ accuracy │ +([\d.]+)% │ +([\d.]+)% ±", printed(SAVED))
    (before, after), (coarse_before, coarse_after) = [(float(one), float(other)) for one, other in tables]
    assert before < 30 and after > 90
    assert coarse_before < 15 and 20 < coarse_after < after
    _, trained, untrained = zip(*recognized(SAVED), strict=True)
    assert trained[0] < 40 and trained[1] > 80 > untrained[1]


def test_nothing_of_the_machine_that_ran_it_is_saved() -> None:
    assert NOTEBOOK.stat().st_size < 2**19
    pages = [cell.source for cell in SAVED.cells] + [printed(SAVED)]
    pages += [
        str(value)
        for cell in code(SAVED)
        for output in cell.outputs
        for kind, value in output.get("data", {}).items()
        if kind != "image/png"
    ]
    assert not re.search(r"(?<![\w.])/(work|root|tmp|home|usr|Users)\b", "\n".join(pages))
    assert all(set(image.info) <= {"Software", "dpi"} for image in pictures(SAVED))


def test_the_notebook_and_the_readme_install_the_same() -> None:
    lines = {line.strip() for line in code(SAVED)[0].source.splitlines() if "!pip" in line}
    assert len(lines) == 2
    assert lines == {line.strip() for line in INSTALL.splitlines() if "!pip" in line}
    assert not any(word.startswith(("torch=", "torch>", "torchvision")) or word == "torch" for word in _words(lines))


def test_its_cells_define_no_functions() -> None:
    """What they call is the package's, so that other tests and the type checker see it."""
    assert not [cell.source for cell in code(SAVED) if re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE)]


def _words(lines: set[str]) -> list[str]:
    return [word for line in lines for word in line.split()]
