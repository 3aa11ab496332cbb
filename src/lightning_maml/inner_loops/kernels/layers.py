"""How the layers that cost most are computed inside a loop, for any network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.overrides import TorchFunctionMode

from lightning_maml.inner_loops.kernels.batch_norm import normalized
from lightning_maml.inner_loops.kernels.convolution import convolved
from lightning_maml.inner_loops.kernels.max_pooling import pooled


class FastLayers(TorchFunctionMode):
    """Within it, convolutions, batch norm by batch statistics, max-pooling and ReLU have fast second derivatives; and
    under vmap they see the channels of all tasks side by side, `[samples, tasks·channels, …]`, so that nothing is
    copied from one layer to the next.

    Functions are intercepted, whoever calls them; modules and state dicts are left alone. Whatever is not known here
    goes PyTorch's way, and sees the strides that PyTorch's own layers would have given it: what these layers lay out
    in another way is marked, and laid out as usual when anything else asks for it.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _STRIDES_ASIDE:
            return func(*args, **kwargs)
        ours = _OURS.get(func)
        if ours is None and func not in _ELEMENTWISE:
            return func(*_each_of(args, _native), **{name: _native(value) for name, value in kwargs.items()})
        args, kwargs = _each_of(args, _latest), {name: _latest(value) for name, value in kwargs.items()}
        y = (ours or func)(*args, **kwargs)
        return _marked(y) if any(_is_marked(value) for value in (*args, *kwargs.values())) else y


def _marked(y: Any) -> Any:
    """Remember that PyTorch's own layers would have made a contiguous tensor here."""
    if isinstance(y, Tensor):
        y._native = None  # type: ignore[attr-defined]
    return y


def _is_marked(value: Any) -> bool:
    return isinstance(value, Tensor) and hasattr(value, "_native")


def _native(value: Any) -> Any:
    """Return a tensor, or those of a list, as PyTorch's own layers lay them out; from then on that is the one in use,
    so that what is changed in place is changed for all."""
    if isinstance(value, list | tuple):
        return _each_of(value, _native)
    if not _is_marked(value):
        return value
    if value._native is None:
        native = value.contiguous()
        if native is value:
            del value._native
            return value
        value._native = native
    return value._native


def _latest(value: Any) -> Any:
    """Return a tensor, whatever its layout."""
    return value._native if _is_marked(value) and value._native is not None else value


def _each_of(values: Any, change: Callable[[Any], Any]) -> Any:
    """Return a tuple or list of changed values; the same one where nothing changes, for it may be of a class of its
    own."""
    changed = [change(value) for value in values]
    if all(new is old for new, old in zip(changed, values, strict=True)):
        return values
    return changed if isinstance(values, list) else tuple(changed)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    by_batch = training and running_mean is None and running_var is None
    if by_batch and input.dim() > 1 and input.shape[1] and input.numel() > input.shape[1]:
        return _folded(normalized(input, weight, bias, eps))
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _convolution(native: Callable[..., Tensor], dimensions: int) -> Callable[..., Tensor]:
    def convolution(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        # For the groups, or for the layout; and under vmap PyTorch's own takes no autocast of shared kernels on a GPU.
        pays = is_batchedtensor(weight) or is_batchedtensor(input) or input.device.type == "cpu"
        if pays and input.dim() == dimensions + 2 and not isinstance(padding, str):
            stride, padding, dilation = (_each(size, dimensions) for size in (stride, padding, dilation))
            y = convolved(input, weight, bias, stride, padding, dilation, groups)
            return _folded(y) if is_batchedtensor(y) or _is_last(input) or _is_last(weight) else _marked(y)
        return native(input, weight, bias, stride, padding, dilation, groups)

    return convolution


def _max_pool2d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    if return_indices or input.dim() != 4:
        native: Any = F.max_pool2d
        return native(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return _folded(pooled(input, kernel_size, stride or None, padding, dilation, ceil_mode))


def _folded(y: Tensor) -> Tensor:
    """Return the tensor whose tasks are side by side, if it is one."""
    marked: Tensor = _marked(y) if is_batchedtensor(y) else y
    return marked


def _is_last(value: Tensor) -> bool:
    """Return whether a tensor is channels last by its user's own hand, and so is what PyTorch makes of it."""
    if _is_marked(value) or value.dim() != 4:
        return False
    return value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()


def _each(size: int | Sequence[int], dimensions: int) -> Sequence[int]:
    """Return a size for every dimension of the image, where one may stand for all."""
    if isinstance(size, int):
        return (size,) * dimensions
    return tuple(size) * (dimensions if len(size) == 1 else 1)


_OURS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.conv1d: _convolution(F.conv1d, 1),
    F.conv2d: _convolution(F.conv2d, 2),
    F.conv3d: _convolution(F.conv3d, 3),
    # Both as `nn.functional` shows it to a mode, and as it is called from there.
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
}
_ELEMENTWISE = {
    *(torch.add, Tensor.add, torch.mul, Tensor.mul),
    *(F.relu, torch.relu, F.leaky_relu, F.elu, F.gelu, F.silu),
}
_STRIDES_ASIDE = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "requires_grad", "is_cuda")),
    *(getattr(Tensor, name) for name in ("size", "dim", "numel", "__len__", "is_floating_point")),
}
