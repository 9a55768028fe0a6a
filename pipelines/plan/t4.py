"""A T4 in numbers. None of them was measured here: they are a data sheet's and what others report."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: What it is called.
        memory: Bytes that programs can have; of a T4's 16 GB, ECC and firmware keep the rest.
        context: Bytes of CUDA's context, cuBLAS's workspaces and NCCL's buffers.
        slack: What the allocator cannot use, as a share of what comes and goes: activations, logits, cache.
        flops: Float16 operations a second that it sustains within its 70 W; 65e12 are its peak.
        bandwidth: Bytes a second to its memory.
        utilisation: Share of either that training and decoding reach.
        link: Bytes a second to the other GPUs, over PCIe 3.
        launch: Seconds from one kernel to the next, where kernels are small.
    """

    name: str = "T4"
    memory: float = 14.5 * GIB
    context: float = 0.6 * GIB
    slack: float = 0.05
    flops: float = 24e12
    bandwidth: float = 320e9
    utilisation: float = 0.7
    link: float = 8e9
    launch: float = 6e-6
