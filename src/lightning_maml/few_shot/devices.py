"""Where a learner adapts."""

import torch

from lightning_maml.errors import SettingError

Device = str | torch.device


def find_device(device: Device) -> torch.device:
    """Return the device of that name; "auto" is a GPU of CUDA's if there is one, else the CPU.

    Raises:
        SettingError: if this machine has no such device, or it holds no values, as PyTorch's "meta".
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found).item()  # PyTorch knows names of devices that are not there
    except (RuntimeError, AssertionError, TypeError) as error:  # by which PyTorch says so
        raise SettingError("device", device, "this machine has no such device; give auto, cpu or cuda") from error
    return found
