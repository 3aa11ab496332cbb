"""Where a learner adapts."""

import torch

from lightning_maml.errors import SettingError

Device = str | torch.device
_TYPES = ("cpu", "cuda", "mps", "xpu")


def find_device(device: Device) -> torch.device:
    """The device of that name; "auto" is a GPU of CUDA's if there is one, else the CPU.

    Raises:
        SettingError: if this machine has no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        if found.type in _TYPES:
            torch.empty(1, device=found)  # PyTorch knows names of devices that are not there
            return found
    except (RuntimeError, AssertionError, TypeError) as error:  # by which PyTorch says so
        raise SettingError("device", device, "this machine has no such device; give auto, cpu or cuda") from error
    raise SettingError("device", device, f"nothing adapts there; give auto, {', '.join(_TYPES[:-1])} or {_TYPES[-1]}")
