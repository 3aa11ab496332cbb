"""All tasks of a chunk at once."""

from collections.abc import Callable

from torch.optim import Optimizer

from lightning_maml.inner_loops.functional_loop import ChunkSize, FunctionalLoop


class VectorizedLoop(FunctionalLoop):
    """`HigherLoop`'s gradient for SGD, unrolled, with many tasks in every operation; see `ManyTasks` for how.

    Args:
        inner_optimizer: a partial of `torch.optim.SGD`, with momentum, Nesterov, weight decay and dampening as there.
        chunk_size: tasks at once; their graphs are in memory together. "auto" takes all of the meta-batch, or as many
            as fit into half of the free memory, on a CPU into a gigabyte. With 1 nothing is batched, and
            `FastLayers` alone makes the difference.

    Raises:
        SettingError: for another inner optimizer, or a chunk size below 1.
    """

    def __init__(self, inner_optimizer: Callable[..., Optimizer], chunk_size: ChunkSize = "auto") -> None:
        super().__init__(inner_optimizer, chunk_size, vectorized=True)
