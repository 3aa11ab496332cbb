"""What a composed configuration is refused for, and what is left alone."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_maml.errors import SettingError
from lightning_maml.shell import command_line
from lightning_maml.shell.configuration import check_settings


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(command_line.ROOT / "conf"), version_base="1.3"):
        return compose("default", overrides=["logging=csv", "data=glyphs", *overrides])


@pytest.fixture(autouse=True)
def in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration asks Hydra for the run's folder, and the job."""
    known = {"runtime": {"output_dir": str(tmp_path)}, "job": {"name": "run"}, "mode": "RUN"}
    monkeypatch.setattr(HydraConfig.instance(), "cfg", OmegaConf.create({"hydra": known}))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of somebody's own, that can be imported."""
    folder = tmp_path / "own_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "nets.py").write_text("from torch.nn import Linear\n\n\nclass Net(Linear):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "overrides",
    [
        ("train.early_stopping=null",),  # as every callback is switched off
        ("train.early_stopping.patience=3",),
        ("~model.torch_module", "+model.torch_module={_target_: own_package.nets.Net, _args_: [5, 5]}"),
    ],
)
def test_what_works_passes(own: Path, overrides: tuple[str, ...]) -> None:
    check_settings(composed(*overrides))


def test_the_trainers_node_makes_one_without_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    trainer = instantiate(composed().train.pl_trainer, logger=False)
    assert isinstance(trainer, pl.Trainer)
    assert not trainer.test_loop.inference_mode


def test_in_a_notebook_that_names_a_folder_every_node_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with initialize_config_dir(str(command_line.ROOT / "conf"), version_base="1.3"):
        cfg = compose("default", ["data=glyphs", f"hydra.runtime.output_dir={tmp_path}"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    made = [
        instantiate(node) for node in (*cfg.train.callbacks.values(), *cfg.logging.values(), cfg.train.checkpoint.best)
    ]
    assert made[-1].dirpath == f"{tmp_path}/checkpoints"


@pytest.mark.parametrize(("kept", "filename"), [("best", "{epoch}-{metaval/outer_accuracy:.3f}"), ("last", "a/b")])
def test_a_checkpoint_has_the_name_of_one_file(kept: str, filename: str) -> None:
    cfg = composed()
    node = cfg.train.checkpoint[kept]
    node.filename = filename
    with pytest.raises(InstantiationException) as raised:
        instantiate(node)
    assert f"train.checkpoint.{kept}.filename={filename}: " in str(command_line.explain(raised.value, cfg))


def test_wandbs_own_variables_are_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"project": "few-shot", "entity": "lab", "group": "baselines", "job_type": "pilot"}
    for name, value in said.items():
        monkeypatch.setenv(f"WANDB_{'RUN_GROUP' if name == 'group' else name.upper()}", value)
    monkeypatch.setenv("WANDB_TAGS", "one,two")
    node = composed("logging=wandb", "logging.wandb.tags=[three]").logging.wandb
    made = instantiate(node)._wandb_init
    assert {name: made[name] for name in said} == said
    assert made["tags"] == ["three", "one", "two"]


def test_a_data_yaml_need_say_no_more_than_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    sets = "{train: &set {_target_: torchmeta.toy.Sinusoid}, val: *set, test: *set}"
    text = f"datamodule:\n  nway: null\n  kshot: {{support: 5, query: 5}}\n  datasets: {sets}\n"
    (tmp_path / "data/mine.yaml").write_text(text)
    cfg = composed("data=mine", f"hydra.searchpath=[file://{tmp_path}]", "train.seed=3")
    check_settings(cfg)
    assert (cfg.train.monitor, cfg.train.mode, cfg.optim.inner_optimizer.lr) == ("metaval/outer_accuracy", "max", 0.01)
    assert cfg.data.datamodule.seed == 3 and cfg.train.callbacks.results.eval_seed == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.early_stopping=5", "train.early_stopping=5: must be a node whose _target_ makes a EarlyStopping"),
        ("train.matmul_precision=low", "train.matmul_precision=low: must be 'highest', 'high' or 'medium'"),
        ("train.checkpoint.every_n_steps=0", "every_n_steps=0: must be at least 1"),
        (
            "train.callbacks.interruption.requeue_code=0",
            "train.callbacks.interruption.requeue_code=0: must be at least 1",
        ),
        *(
            (f"model.torch_module._target_={name}", f"model.torch_module._target_={name}: there is no such class")
            for name in ("own_package.nets.Nett", "own_package.net.Net", "owner.Net", "own_package.nets.Net.no", ".a")
        ),
        ("model.torch_module._target_=own_package.nets", "own_package.nets: there is no such class"),
    ],
)
def test_what_does_not_is_refused(own: Path, override: str, said: str) -> None:
    with pytest.raises(SettingError) as raised:
        check_settings(composed(override))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("import not_there_at_all", ModuleNotFoundError),
        ("from torch import no_such_name", ImportError),
        ("import torch; torch.no_such_thing", AttributeError),
        ("1 / 0", ZeroDivisionError),
    ],
)
def test_an_error_in_the_module_of_a_class_is_raised_as_it_is(own: Path, line: str, error: type[Exception]) -> None:
    (own / "nets.py").write_text(line)
    with pytest.raises(error) as raised:
        check_settings(composed("model.torch_module._target_=own_package.nets.Net"))
    assert not isinstance(raised.value, SettingError)


def test_what_prepares_data_asks_nothing_of_the_rest() -> None:
    """A login node prepares for nodes with accelerators, and machines that it knows nothing of."""
    elsewhere = ("train=multinode", "train.pl_trainer.accelerator=gpu")
    check_settings(composed(*elsewhere), group="data")
    with pytest.raises(SettingError, match=r"^num_nodes=2"):
        check_settings(composed(*elsewhere))
    with pytest.raises(SettingError, match=r"^data.inner_lr=-1"):
        check_settings(composed(*elsewhere, "data.inner_lr=-1"), group="data")
