"""Settings of every group that are of the wrong type, out of range, misspelt or contradictory: each is refused in a
line that names the setting as it was typed, and its value."""

from pathlib import Path

import pytest

from tests.integration.refusals import refuse

WRONG_TYPE = {
    "data": [
        ("data.datamodule.nway=five", "data.datamodule.nway=five: must be a valid integer or a mapping"),
        ("data.datamodule.nway=5.5", "data.datamodule.nway=5.5: must be a valid integer or a mapping"),
        ("data.datamodule.kshot.support=null", "data.datamodule.kshot.support=None: must be a valid integer"),
        ("data.datamodule.batch_size.train=[16]", "data.datamodule.batch_size.train=[16]: must be a valid integer"),
        ("data.datamodule.device_resident=3", "data.datamodule.device_resident=3: must be a valid boolean"),
        ("data.datamodule.cache_dir=3", "data.datamodule.cache_dir=3: must be a valid string"),
        ("data.datamodule.transforms=[resize]", "data.datamodule.transforms=resize: must be a node with a _target_"),
        ("data.inner_lr=fast", "data.inner_lr=fast: must be a valid number"),
        ("data=image_folder data.split_seed=x", "data.split_seed=x: must be a valid integer"),
        ("data.datamodule=null", "data.datamodule=None: must be a node whose _target_ makes a MetaDataModule"),
    ],
    "model": [
        ("model.torch_module.num_filters=many", "model.torch_module.num_filters=many: must be a valid integer"),
        ("model=mlp model.torch_module.hidden_sizes=40", "model.torch_module.hidden_sizes=40: must be a list"),
        (
            "model=resnet12 model.torch_module.drop_block=nan",
            "model.torch_module.drop_block=nan: must be a finite number",
        ),
        ("model.torch_module=Conv4", "model.torch_module=Conv4: must be a node whose _target_ makes a Module"),
    ],
    "algorithm": [
        ("algorithm.num_inner_steps=1.5", "algorithm.num_inner_steps=1.5: must be a valid integer"),
        ("algorithm.gradient_clip_val=inf", "algorithm.gradient_clip_val=inf: must be a finite number"),
        ("algorithm.log_every_step=1", "algorithm.log_every_step=1: must be a valid boolean"),
        ("algorithm.objective.first_order=maybe", "algorithm.objective.first_order=maybe: must be a valid boolean"),
        (
            "algorithm=meta_sgd algorithm.learner.step_size=[1]",
            "algorithm.learner.step_size=[1]: must be a valid number",
        ),
    ],
    "inner_loop": [
        (
            "inner_loop=vectorized inner_loop.chunk_size=all",
            "inner_loop.chunk_size=all: must be a valid integer or 'auto'",
        ),
        ("inner_loop=recompute inner_loop.keep_every=2.0", "inner_loop.keep_every=2.0: must be a valid integer"),
        ("inner_loop=implicit inner_loop.vectorized=2", "inner_loop.vectorized=2: must be a valid boolean"),
    ],
    "optim": [
        ("optim.outer_optimizer.lr=null", "optim.outer_optimizer.lr=None: must be a valid number"),
        ("optim.inner_optimizer.lr=[0.1]", "optim.inner_optimizer.lr=[0.1]: must be a valid number"),
        ("algorithm=reptile optim.inner_optimizer.betas=0.9", "optim.inner_optimizer.betas=0.9: must be a list"),
        ("optim=adam_cosine optim.lr_scheduler.T_max=1.5", "optim.lr_scheduler.T_max=1.5: must be a valid integer"),
        ("optim.outer_optimizer=adam", "optim.outer_optimizer=adam: must be a node whose _target_ makes a Optimizer"),
    ],
    "train": [
        ("train.seed=zero", "train.seed=zero: must be a valid integer"),
        ("train.fit=often", "train.fit=often: must be a valid boolean"),
        ("train.ckpt_path=3", "train.ckpt_path=3: must be a valid string"),
        ("train.early_stopping.patience=1.5", "train.early_stopping.patience=1.5: must be a valid integer"),
        ("train.pl_trainer.max_epochs=ten", "train.pl_trainer.max_epochs=ten: must be a valid integer"),
        (
            "train.pl_trainer.max_time=3",
            "train.pl_trainer.max_time=3: must be a valid string or a valid duration or a mapping",
        ),
        (
            "train.pl_trainer.precision=half",
            "train.pl_trainer.precision=half: must be 64, 32 or 16 or 'transformer-engine',",
        ),
        ("train.callbacks=null", "train.callbacks=None: must be a mapping; null switches off a single node in it"),
        ("train.callbacks.curves=5", "train.callbacks.curves=5: must be a node whose _target_ makes a Callback"),
    ],
    "logging": [
        ("logging.csv=5", "logging.csv=5: must be a node whose _target_ makes a Logger"),
        ("logging=wandb logging.wandb.log_model=3", "logging.wandb.log_model=3: must be a valid boolean or 'all'"),
    ],
}

OUT_OF_RANGE = [
    ("data.datamodule.eval_seed=-1", "data.datamodule.eval_seed=-1: must be at least 0"),
    ("data.datamodule.batches.val=0", "data.datamodule.batches.val=0: must be at least 1"),
    (
        "data.datamodule.num_workers.train=-1",
        "data.datamodule.num_workers.train=-1: must be at least 0",
    ),
    ("data.datamodule.cache=tape", "data.datamodule.cache=tape: must be 'disk', 'memory' or 'none'"),
    ("data.inner_lr=-0.4", "data.inner_lr=-0.4: must be at least 0"),
    (
        "model=conv4 model.torch_module.downsample=half",
        "model.torch_module.downsample=half: must be 'max_pool' or 'stride'",
    ),
    (
        "model=resnet12 model.torch_module.channels=[0]",
        "model.torch_module.channels=0: must be at least 1",
    ),
    ("algorithm.accumulate=0", "algorithm.accumulate=0: must be at least 1"),
    ("algorithm=r2d2 algorithm.learner.ridge=0", "algorithm.learner.ridge=0: must be greater than 0"),
    ("algorithm=mldg algorithm.objective.beta=-1", "algorithm.objective.beta=-1: must be at least 0"),
    ("inner_loop=implicit inner_loop.proximal=0", "inner_loop.proximal=0: must be greater than 0"),
    (
        "inner_loop=implicit inner_loop.outer_solver=lu",
        "inner_loop.outer_solver=lu: must be 'cg', 'neumann' or 'finite_difference'",
    ),
    ("+optim.inner_optimizer.momentum=-1", "optim.inner_optimizer.momentum=-1: Invalid momentum value: -1"),
    ("+optim.outer_optimizer.betas=[0.9,1.5]", "optim.outer_optimizer.betas=[0.9, 1.5]: Invalid beta"),
    ("optim=adam_cosine optim.lr_scheduler.T_max=0", "optim.lr_scheduler"),
    ("train.seed=99999999999", "train.seed=99999999999: must be less than 4294967296"),
    ("train.mode=largest", "train.mode=largest: must be 'max' or 'min'"),
    ("train.pl_trainer.limit_train_batches=0", "train.pl_trainer.limit_train_batches=0: must be greater than 0"),
    (
        "train.pl_trainer.limit_val_batches=-1",
        "train.pl_trainer.limit_val_batches=-1: You have passed invalid value -1",
    ),
    ("train.pl_trainer.val_check_interval=0", "train.pl_trainer.val_check_interval=0: must be greater than 0"),
    (
        "train.pl_trainer.check_val_every_n_epoch=0",
        "train.pl_trainer.check_val_every_n_epoch=0: must be at least 1",
    ),
    ("train.pl_trainer.max_time=tomorrow", "train.pl_trainer.max_time=tomorrow: "),
    ("train.pl_trainer.profiler=fast", "train.pl_trainer.profiler=fast: "),
    ("train.checkpoint.every_n_steps=0", "train.checkpoint.every_n_steps=0: must be at least 1"),
]

MISSPELT = [
    ("trian.seed=1", "trian.seed=1: there is no such setting; did you mean train.seed=1?"),
    ("data.datamodule.kshot.querry=1", "data.datamodule.kshot.querry=1: there is no such setting"),
    (
        "data.datamodule.kshot={suport:1,query:1}",
        "data.datamodule.kshot.suport=…: there is no such setting; did you mean data.datamodule.kshot.support",
    ),
    ("data.datamodule.nway={train:3,vall:2,test:2}", "vall"),
    ("+model.torch_module.num_filter=3", "unexpected keyword argument 'num_filter' of model.torch_module._target_="),
    ("+train.pl_trainer.max_epoch=3", "train.pl_trainer.max_epoch=3: unexpected keyword argument 'max_epoch'"),
    (
        "+optim.outer_optimizer.momentums=1",
        "optim.outer_optimizer.momentums=1: unexpected keyword argument 'momentums'",
    ),
    ("optim.outer_optimizer._target_=torch.optim.Adma", "optim.outer_optimizer._target_=torch.optim.Adma: there is no"),
    ("algorithm.learner._target_=maml.MAML", "algorithm.learner._target_=maml.MAML: there is no such class"),
    ("algorithm=malm", "algorithm=malm: there is no such member; did you mean algorithm=maml?"),
    ("--train.seed=1", "--train.seed=1: settings have no dashes; did you mean train.seed=1?"),
    ("~train.sede", "~train.sede: there is no such setting to delete"),
    ("train.monitor=metaval/acuracy", "train.monitor=metaval/acuracy: there is no such metric"),
]

CONTRADICTORY = [
    ("train.pl_trainer.max_steps=0", "train.pl_trainer.max_steps=0: nothing would be trained; train.fit=false"),
    ("train.pl_trainer.max_epochs=0", "train.pl_trainer.max_epochs=0: nothing would be trained"),
    (
        "train.fit=false train.test=false train.ckpt_path=x.ckpt",
        "train.test=False: with train.fit=false there is nothing",
    ),
    ("train.early_stopping.patience=3 train.pl_trainer.limit_val_batches=0", "train.early_stopping.patience=3: "),
    ("train.monitor=metaval/outer_loss", "data.mode=max: metaval/outer_loss is minimized; give min"),
    ("optim=adam_cosine train.pl_trainer.max_epochs=-1", "train.pl_trainer.max_epochs=-1: a schedule needs an end"),
    ("+optim.inner_optimizer.nesterov=true", "optim.inner_optimizer.nesterov=True: Nesterov momentum requires"),
    ("algorithm=protonet algorithm.num_inner_steps=2", "algorithm.num_inner_steps=2: this method does not adapt"),
    ("algorithm=anil inner_loop=implicit", "inner_loop=implicit: this method's features are learned outside"),
    (
        "algorithm=meta_sgd inner_loop=implicit",
        "inner_loop=implicit: the solution does not depend on learned step sizes",
    ),
    ("algorithm=protonet inner_loop=implicit", "inner_loop=implicit: this method's features are learned outside"),
    ("algorithm=mldg inner_loop=implicit", "inner_loop=implicit: its gradients are of the solution alone"),
    ("algorithm=protonet inner_loop=reptile", "inner_loop=reptile: it learns from adaptation alone"),
    (
        "algorithm=reptile algorithm.num_inner_steps=0",
        "algorithm.num_inner_steps=0: must be at least 1",
    ),
    ("algorithm=reptile inner_loop=higher", "algorithm.objective={}: it weighs no loss"),
    ("data=sinusoid model=mlp data.datamodule.nway=2", "data.datamodule.nway=2: these tasks have no classes to choose"),
    ("data=sinusoid model=conv4", "model.torch_module.input_shape=(1,): Conv4 wants images"),
    (
        "data.datamodule.cache=none data.datamodule.device_resident=true",
        "data.datamodule.device_resident=True: needs a",
    ),
    (
        "optim.outer_optimizer._target_=torch.optim.LBFGS ~optim.outer_optimizer.lr",
        "optim.outer_optimizer._target_=LBFGS",
    ),
    (
        "optim.outer_optimizer._target_=torch.nn.Linear",
        "optim.outer_optimizer._target_=torch.nn.Linear: it is no Optim",
    ),
    ("model.torch_module._target_=torch.optim.SGD", "model.torch_module._target_=torch.optim.SGD: it is no Module"),
    (
        "inner_loop=higher optim.inner_optimizer._target_=torch.optim.ASGD",
        "ASGD: the inner loop has no differentiable",
    ),
]

HARDWARE = [
    ("train.pl_trainer.accelerator=tpu", "train.pl_trainer.accelerator=tpu: "),
    ("train.pl_trainer.accelerator=abacus", "train.pl_trainer.accelerator=abacus: "),
    ("train.pl_trainer.devices=0", "train.pl_trainer.devices=0: "),
    ("train.pl_trainer.devices=[7]", "train.pl_trainer.devices=[7]: "),
    (
        "train.pl_trainer.devices=99",
        "data.datamodule.batch_size.train=2: it is global; choose a multiple of 99 processes",
    ),
    (
        "train.pl_trainer.num_nodes=2",
        "train.pl_trainer.num_nodes=2: nothing here has started processes on other machines",
    ),
]

LONG = "9" * 5_000

ONCE_TRACEBACKS = [
    ("model=null", "model=null: this is no member; choose from conv4, "),
    ("data=3", "data=3: this is no member; choose from "),
    ("~train.seed", "train.seed=None: must be a valid integer"),
    ("~data.monitor", "data.monitor=None: must be a valid string"),
    ("train.seed=${train.seed}", "Recursive interpolation detected"),
    ("train.ckpt_path=", "train.ckpt_path=: "),
    ("train.ckpt_path=.", "train.ckpt_path=.: there is no such file"),
    ("train.ckpt_path=/", "train.ckpt_path=/: there is no such file"),
    ("train.pl_trainer.val_check_interval=50", "train.pl_trainer.val_check_interval=50: must be less than or equal to"),
    (f"train.seed={LONG}", "an integer is too long"),
    (f"algorithm.num_inner_steps={LONG}", "an integer is too long"),
    ("logging=null", "logging=null: this is no member; choose from csv"),
    ("train.checkpoint=null", "train.checkpoint.best=None: must be a node"),
    ("pictures=null", "node `pictures` is not a container"),
    ("data.datamodule.nway=${nope}", "Interpolation key 'nope' not found full_key: data.datamodule.nway"),
    ("optim.outer_optimizer.lr=1e400", "optim.outer_optimizer.lr=inf: must be a finite number"),
]

CASES = [
    *(case for cases in WRONG_TYPE.values() for case in cases),
    *(case for cases in (OUT_OF_RANGE, MISSPELT, CONTRADICTORY, HARDWARE, ONCE_TRACEBACKS) for case in cases),
]


@pytest.mark.parametrize(("overrides", "said"), CASES, ids=[overrides[:60] for overrides, _ in CASES])
def test_it_is_refused_in_one_line(tmp_path: Path, overrides: str, said: str) -> None:
    assert said in refuse(*overrides.split(" "), folder=tmp_path / "run")
