"""Which numbers a device computes with. The only place that decides it.

A T4 (compute capability 7.5) has no bfloat16 units although torch and transformers answer that it is "supported": they
count emulation. So the capability decides, never that answer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DevicePolicy:
    """The arithmetic of this process.

    Attributes:
        device: Where the model lives.
        compute_dtype: Type of the frozen base and of autocast. Trainable parameters are always float32.
    """

    device: torch.device
    compute_dtype: torch.dtype

    @property
    def fp16(self) -> bool:
        """Half precision, which needs a gradient scaler."""
        return self.compute_dtype == torch.float16

    @property
    def bf16(self) -> bool:
        """Brain float: the range of float32, so no scaler."""
        return self.compute_dtype == torch.bfloat16


def device_policy() -> DevicePolicy:
    """The policy of this process: its own GPU if there is one (`LOCAL_RANK`), else the CPU in float32."""
    if not torch.cuda.is_available():
        return DevicePolicy(torch.device("cpu"), torch.float32)
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return DevicePolicy(device, dtype_for(torch.cuda.get_device_capability(device)))


def dtype_for(capability: tuple[int, int]) -> torch.dtype:
    """float16 below compute capability 8.0, bfloat16 from there on."""
    return torch.bfloat16 if capability >= (8, 0) else torch.float16
