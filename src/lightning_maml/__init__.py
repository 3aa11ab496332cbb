"""Meta-learning with Lightning and Hydra. Importing it is enough for `import torchmeta` to work afterwards."""

from lightning_maml.shell import hydra_repair, torchmeta_repair

hydra_repair.install()
torchmeta_repair.install()
