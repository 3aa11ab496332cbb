"""torchmeta beside today's PyTorch, in a fresh interpreter each time."""

import subprocess
import sys

from tests.paths import ROOT


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": "src"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_lightning_maml_is_enough_for_torchmeta() -> None:
    code = "import lightning_maml, torchmeta; from torchmeta.datasets import Omniglot; print(torchmeta.__version__)"
    assert python(code) == "1.8.0"


def test_torchmeta_may_be_imported_first_where_the_project_is_installed() -> None:
    code = "import torchmeta, sys; print(torchmeta.__version__, 'lightning_maml' in sys.modules)"
    assert python(code) == "1.8.0 True"
    assert python("import torch, sys; print('lightning_maml' in sys.modules)") == "False"


def test_importing_lightning_maml_loads_nothing_heavy() -> None:
    assert (
        python("import sys, lightning_maml; print('torch' in sys.modules, 'torchmeta' in sys.modules)") == "False False"
    )


def test_google_drive_downloads_go_through_torchvision() -> None:
    code = (
        "import lightning_maml, torchmeta.datasets.miniimagenet as m, torchvision.datasets.utils as u;"
        "print(m.download_file_from_google_drive is u.download_file_from_google_drive, '_get_confirm_token' in dir(u))"
    )
    assert python(code) == "True False"


def test_a_class_splitter_splits() -> None:
    """Its SubsetTask is the class that PyTorch refuses to build without the repair."""
    code = (
        "import lightning_maml; from torchmeta.toy import Sinusoid; from torchmeta.transforms import ClassSplitter;"
        "s = ClassSplitter(num_train_per_class=3, num_test_per_class=4);"
        "task = Sinusoid(7, num_tasks=1, dataset_transform=s)[0]; print(len(task['train']), len(task['test']),"
        "len(task['test'].__getitems__([0, 2])))"
    )
    assert python(code) == "3 4 2"


def test_every_repair_finds_what_it_repairs() -> None:
    code = (
        "import importlib, lightning_maml.shell.torchmeta_repair as repair;"
        "print(len([importlib.import_module(name) for name in repair._REPAIRS]))"
    )
    assert int(python(code)) == 13


def test_torchmeta_alone_fails_which_is_why_there_is_a_repair() -> None:
    code = "import sys; sys.meta_path = [each for each in sys.meta_path if 'Repair' not in str(each)]; import torchmeta"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0 and "_get_confirm_token" in done.stderr
