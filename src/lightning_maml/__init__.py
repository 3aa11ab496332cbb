"""Meta-learning with Lightning and Hydra. Importing it is enough for `import torchmeta` to work afterwards."""

from lightning_maml import torchmeta_repair

torchmeta_repair.install()
