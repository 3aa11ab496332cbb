"""What a meta-update of each method costs, relative to MAML's.

    python benchmarks/algorithms.py [--rounds 5] [OVERRIDE …] [--methods maml anil …]

Each method as its YAML has it, on the same meta-batch of the quickstart (16 tasks of printed characters, 5-way 5-shot,
15 queries; Conv4-32), with other settings as for src/run.py: `algorithm.num_inner_steps=5 inner_loop=vectorized`.
(`inner_loop` does not apply to methods that choose their own.) The methods take turns; medians of the ratios within
each round. The last line is one JSON object.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from inner_loop import seconds
from rich.console import Console
from rich.table import Table

from lightning_maml.shell import command_line  # noqa: F401  # registers the resolvers that the configurations use
from lightning_maml.shell.allocator import keep_freed_memory

CONF = Path(__file__).resolve().parent.parent / "conf"
METHODS = sorted(path.stem for path in (CONF / "algorithm").glob("*.yaml") if path.stem != "mldg")
_OWN_LOOP = {"imaml", "reptile"}
_NO_STEPS = {"protonet", "r2d2"}


class MetaUpdate:
    """One meta-update of a method, as `OuterLoop` makes it."""

    def __init__(self, method: str, overrides: list[str], device: torch.device) -> None:
        kept = [one for one in overrides if not (one.startswith("inner_loop=") and method in _OWN_LOOP)]
        kept = [one for one in kept if not (one.startswith("algorithm.num_inner_steps=") and method in _NO_STEPS)]
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra.compose("default", overrides=[f"algorithm={method}", "experiment=quickstart", *kept])
        cfg.data.datamodule.num_workers.train = 0
        data: Any = hydra.utils.instantiate(cfg.data.datamodule)
        torch.manual_seed(0)
        network = hydra.utils.instantiate(
            cfg.model.torch_module, input_shape=data.input_shape, num_outputs=data.num_outputs
        )
        self._learner = hydra.utils.instantiate(cfg.algorithm.learner, network=network).to(device)
        self._loop = hydra.utils.instantiate(cfg.inner_loop)
        self._optimizer = hydra.utils.instantiate(cfg.optim.outer_optimizer)(self._learner.meta_parameters().values())
        self.steps: int = cfg.algorithm.num_inner_steps
        schedule = hydra.utils.instantiate(cfg.algorithm.objective)
        # In the middle of meta-training, when nothing is annealed any longer.
        self._objective = schedule(self.steps, 10**9)
        data.prepare_data()
        data.setup("fit")
        self._episodes = type(batch := next(iter(data.train_dataloader())))(*(field.to(device) for field in batch))

    def __call__(self) -> None:
        gradients = self._loop(self._learner, self._episodes, steps=self.steps, objective=self._objective)[1]
        for name, parameter in self._learner.meta_parameters().items():
            parameter.grad = gradients[name]
        self._optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_intermixed_args()
    keep_freed_memory()
    device = torch.device(arguments.device)
    methods = ["maml", *(method for method in arguments.methods if method != "maml")]
    updates = {method: MetaUpdate(method, arguments.overrides, device) for method in methods}
    for update in updates.values():
        update()  # warms up, checks and chooses
    rounds = [{method: seconds(update, device) for method, update in updates.items()} for _ in range(arguments.rounds)]
    table = Table("algorithm", "inner steps", "seconds", "× maml")
    ratios = {}
    for method, update in updates.items():
        ratios[method] = statistics.median(each[method] / each["maml"] for each in rounds)
        each_second = statistics.median(each[method] for each in rounds)
        table.add_row(method, str(update.steps), f"{each_second:.3f}", f"{ratios[method]:.2f}")
    Console(width=100).print(table)
    print(json.dumps({"overrides": arguments.overrides, "times_maml": ratios, "rounds": arguments.rounds}))


if __name__ == "__main__":
    main()
