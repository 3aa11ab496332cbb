"""Layers whose second derivatives are computed in closed form, each because it was measured to be faster
(benchmarks/README.md); `FastLayers` puts them in the place of PyTorch's own."""

from lightning_maml.inner_loops.kernels.layers import FastLayers

__all__ = ["FastLayers"]
