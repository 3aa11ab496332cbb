"""What a meta-update of each method costs, relative to MAML's.

    python -m benchmarks.speed.algorithms [--rounds 5] [OVERRIDE …] [--methods maml anil …]

Each method as its YAML has it, on the same meta-batch of the quickstart (16 tasks of printed characters, 5-way 5-shot,
15 queries; Conv4-32), with other settings as for src/run.py: `algorithm.num_inner_steps=5 inner_loop=vectorized`.
(`inner_loop` does not apply to methods that choose their own.) The methods take turns; medians of the ratios within
each round. The last line is one JSON object.
"""

import argparse
from collections.abc import Callable
from typing import Any

import hydra
import torch

from benchmarks.project import ROOT, composed, data_of, learner_of
from benchmarks.timing import medians_of, ratio_of, report, rounds_of

METHODS = sorted(path.stem for path in (ROOT / "conf/algorithm").glob("*.yaml") if path.stem != "mldg")
# The overrides that a method has no use for.
_NOT_OF = {"imaml": "inner_loop=", "reptile": "inner_loop="}
_NOT_OF |= {"protonet": "algorithm.num_inner_steps=", "r2d2": "algorithm.num_inner_steps="}


def meta_update(method: str, overrides: list[str], device: torch.device) -> Callable[[], None]:
    """Return what makes one meta-update of a method on the first meta-batch, as `OuterLoop` makes it."""
    kept = [one for one in overrides if not (method in _NOT_OF and one.startswith(_NOT_OF[method]))]
    cfg = composed(f"algorithm={method}", "experiment=quickstart", "data.datamodule.num_workers.train=0", *kept)
    data = data_of(cfg, "fit")
    learner = learner_of(cfg, data).to(device)
    parameters = learner.meta_parameters()
    loop: Any = hydra.utils.instantiate(cfg.inner_loop)
    optimizer: Any = hydra.utils.instantiate(cfg.optim.outer_optimizer)(parameters.values())
    steps = cfg.algorithm.num_inner_steps
    schedule: Any = hydra.utils.instantiate(cfg.algorithm.objective)
    objective = schedule(steps, 10**9)  # in the middle of meta-training, when nothing is annealed any longer
    batch = next(iter(data.train_dataloader()))
    episodes = type(batch)(*(field.to(device) for field in batch))

    def update() -> None:
        gradients = loop(learner, episodes, steps=steps, objective=objective)[1]
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        optimizer.step()

    return update


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_intermixed_args()
    device = torch.device(arguments.device)
    methods = dict.fromkeys(["maml", *arguments.methods])
    updates = {method: meta_update(method, arguments.overrides, device) for method in methods}
    times = rounds_of(updates, device, rounds=arguments.rounds)
    ratios = {method: ratio_of(times, method, "maml") for method in methods}
    rows = [(method, f"{median:.3f}", f"{ratios[method]:.2f}") for method, median in medians_of(times).items()]
    result = {"overrides": arguments.overrides, "times_maml": ratios, "rounds": arguments.rounds}
    report("A meta-update of each method", ("algorithm", "seconds", "× maml"), rows, result)


if __name__ == "__main__":
    main()
