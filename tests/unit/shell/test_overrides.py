"""Overrides as people type them, and what was probably meant."""

import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

from lightning_maml.errors import SettingError
from lightning_maml.shell import overrides


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train.pl_trainer.gpus=0", ["train.pl_trainer.accelerator=cpu"]),
        ("train.pl_trainer.gpus=1", ["train.pl_trainer.accelerator=gpu", "train.pl_trainer.devices=1"]),
        ("+train.pl_trainer.gpus=4", ["train.pl_trainer.accelerator=gpu", "train.pl_trainer.devices=4"]),
        ("data.datamodule.num_inner_steps=5,10,20", ["algorithm.num_inner_steps=5,10,20"]),
    ],
)
def test_old_keys_become_todays_with_one_line(old: str, new: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert overrides.translate(old) == new
    (line,) = capsys.readouterr().err.splitlines()
    assert old in line and new[0] in line


@pytest.mark.parametrize(("method", "steps"), [("maml", 3), ("protonet", 0)])
def test_a_former_data_yaml_becomes_todays_with_one_line(
    method: str, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method that has its own number of inner steps keeps it."""
    changes = [f"algorithm={method}", "+data.datamodule.num_inner_steps=3", "~optim.inner_optimizer._partial_"]
    with initialize_config_dir(str(overrides.CONF), version_base="1.3"):
        cfg = compose("default", overrides=changes)
    cfg.data.datamodule._target_ = "pl.datamodule.MetaDataModule"
    overrides.translate_yamls(cfg)
    assert cfg.data.datamodule._target_ == "lightning_maml.data.MetaDataModule"
    assert cfg.algorithm.num_inner_steps == steps and "num_inner_steps" not in cfg.data.datamodule
    assert cfg.optim.inner_optimizer._partial_
    (line,) = capsys.readouterr().err.splitlines()
    assert f"num_inner_steps=3 is now algorithm.num_inner_steps={steps}" in line


def test_a_header_of_hydra_1_0_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^# @package _group_: .* delete it$"):
        overrides.translate_yamls(OmegaConf.create({"_group_": {"datamodule": {}}}))


@pytest.mark.parametrize("value", ["a=b/last.ckpt", "my runs (1)/[2]/{3}.ckpt", 'a,b\'s "c"#:.ckpt', "run/last.ckpt"])
@pytest.mark.parametrize("name", ["train.ckpt_path", "hydra.run.dir"])
def test_a_path_of_any_characters_is_taken_as_it_is(name: str, value: str) -> None:
    (parsed,) = OverridesParser.create().parse_overrides(overrides.quoted([f"{name}={value}"], ()))
    assert parsed.value() == value


def test_null_and_the_choices_of_a_sweep_are_left_alone() -> None:
    for arguments in (["train.ckpt_path=null"], ["-m", "train.ckpt_path=a.ckpt,b.ckpt"], ["data.root=[a, b]"]):
        assert overrides.quoted(arguments, ()) == arguments


def test_what_hydra_cannot_read_is_told_how_to_be_quoted() -> None:
    typed = "logging.csv.run_dir=a=b"
    with pytest.raises(OverrideParseException) as refusal:
        OverridesParser.create().parse_overrides([typed])
    line = overrides.what_was_meant(refusal.value)
    assert line is not None and line.startswith(f"{typed}: ")
    (remedy,) = shlex.split(line.rpartition("quote it: ")[2])
    assert OverridesParser.create().parse_override(remedy).value() == "a=b"


def test_other_arguments_pass_silently(capsys: pytest.CaptureFixture[str]) -> None:
    for argument in ("-m", "data=glyphs", "train.pl_trainer.max_epochs=5", "--help"):
        assert overrides.translate(argument) == [argument]
    assert capsys.readouterr().err == ""


def test_a_setting_written_as_an_option() -> None:
    with pytest.raises(SettingError, match="--algorithm.num_inner_steps=5: settings have no dashes"):
        overrides.as_hydra_takes_them(["--algorithm.num_inner_steps=5"])
    for options in (["--cfg=job"], ["--config-path=/conf"], ["--multirun", "train.seed=1,2"]):
        assert overrides.as_hydra_takes_them(options) == options


def test_multirun_may_stand_anywhere() -> None:
    assert overrides.as_hydra_takes_them(["a=1", "-m", "b=2"]) == ["-m", "a=1", "b=2"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("modell=conv4", "model=conv4"),
        ("experment=quickstart", "experiment=quickstart"),  # no key of the configuration, only a group
        ("algorithm.num_inner_step=5", "algorithm.num_inner_steps=5"),
        ("train.pl_trainer.max_epoch=3", "train.pl_trainer.max_epochs=3"),
        ("data.datamodule.kshots.support=1", "data.datamodule.kshot.support=1"),
        ("nway=20", "data.datamodule.nway=20"),
        ("model.num_filters=8", "model.torch_module.num_filters=8"),
        ("lr=0.1", "optim.inner_optimizer.lr=0.1 or optim.outer_optimizer.lr=0.1"),
        ("seed=1", "train.seed=1"),  # rather than data.datamodule.seed, which follows it
    ],
)
def test_the_nearest_setting_is_suggested(typed: str, meant: str) -> None:
    line = refused(typed)
    assert line.startswith(f"{typed}: there is no such setting; did you mean {meant}? ")


@pytest.mark.parametrize("typed", ["model.torch_module.depth=3", "frobnicate=1"])
def test_a_setting_like_no_other_is_told_how_to_be_added(typed: str) -> None:
    line = refused(typed)
    assert "did you mean" not in line and line.endswith(f"To add a new one: +{typed}")


def test_the_nearest_member_is_suggested() -> None:
    missing = MissingConfigException("Could not find\n'data/x'", "data/glyhps", ["glyphs", "omniglot"])
    line = "data=glyhps: there is no such member; did you mean data=glyphs? choose from glyphs, omniglot"
    assert overrides.what_was_meant(missing) == line


@pytest.mark.parametrize("typed", ["omniglot_maml_5way_1shots", "omniglo_maml_5way_1shot", "maml_5way_1shot"])
def test_the_nearest_of_many_members_is_suggested(typed: str) -> None:
    line = refused(f"experiment={typed}")
    assert line.startswith(f"experiment={typed}: there is no such member; did you mean experiment=omniglot_maml_5way_1")
    assert line.endswith("choose from the YAMLs of conf/experiment") and len(line) < 250


@pytest.mark.parametrize(
    ("typed", "today"),
    [
        ("experiment=omniglot/maml_5way_1shot", "experiment=omniglot_maml_5way_1shot"),
        (
            "experiment=omniglot/anil_5way_1shot,sinusoids/maml_5shot",
            "experiment=omniglot_anil_5way_1shot,sinusoids_maml_5shot",
        ),
        ("experiment=mine/omniglot", "experiment=mine/omniglot"),
        ("experiment=quickstart", "experiment=quickstart"),
        ("data.root=omniglot/images", "data.root=omniglot/images"),
    ],
)
def test_an_experiments_name_may_have_its_former_folder(typed: str, today: str) -> None:
    assert overrides.translate(typed) == [today]


def test_members_are_listed_where_hydra_does_not() -> None:
    missing = MissingConfigException("Could not load 'model/cnn'", "model/cnn")
    line = "model=cnn: there is no such member; choose from conv4, conv4_small, mlp, resnet12, text_cnn"
    assert overrides.what_was_meant(missing) == line


def refused(typed: str) -> str:
    """What is said of an override that Hydra refuses."""
    with (
        initialize_config_dir(str(overrides.CONF), version_base="1.3"),
        pytest.raises(ConfigCompositionException) as refusal,
    ):
        compose("default", overrides=[typed])
    line = overrides.what_was_meant(refusal.value)
    assert line is not None
    return line
