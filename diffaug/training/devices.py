"""Where a fit runs: one CPU, one GPU, or many processes under torchrun."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from diffaug.errors import DiffaugError


def start_fabric(device: str = "auto") -> Fabric:
    """Choose device, precision and number of processes.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Returns:
        A launched Fabric, one per process: bfloat16 autocast where the GPU has it, float32 elsewhere; under torchrun
        one process per device, whose gradients the training loop averages.

    Raises:
        DiffaugError: If a GPU is asked for and there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise DiffaugError(f"--device: found '{device}', expected auto, cpu or cuda; fix the option")
    if device == "cuda" and not torch.cuda.is_available():
        raise DiffaugError("--device cuda: torch finds no GPU, expected one; use --device cpu or fix the driver")
    return _started(device != "cpu" and torch.cuda.is_available())


@cache
def _started(gpu: bool) -> Fabric:
    local, world = (int(os.environ.get(v, "1")) for v in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    fabric = Fabric(
        accelerator="cuda" if gpu else "cpu",
        devices=local,
        num_nodes=world // local,
        # rank 0 may preprocess hundreds of scans while the others wait
        strategy=DDPStrategy(timeout=timedelta(days=1)) if world > 1 else "auto",
        # not on CPUs that have bfloat16: a step is shorter by a third there, but torch 2.15 gives infinite gradients now
        # and then (strided convolution of one channel, 12 steps of the copy detector's embedding); nor on GPUs older than
        # Ampere, which emulate it (torch.cuda.is_bf16_supported counts them, too)
        precision="bf16-mixed" if gpu and torch.cuda.get_device_capability() >= (8, 0) else "32-true",
    )
    fabric.launch()
    if world > 1 and not gpu:
        # Fabric does so for GPUs alone; gloo's threads, still running when the interpreter goes, now and then abort it
        atexit.register(dist.destroy_process_group)
    return fabric


@cache
def alone(fabric: Fabric) -> Fabric:
    """Take one process out of several, for what each does by itself.

    Args:
        fabric: The processes.

    Returns:
        A launched Fabric of this process alone, on the same device.
    """
    if fabric.world_size == 1:
        return fabric
    gpu = fabric.device.type == "cuda"
    devices = [fabric.device.index or 0] if gpu else 1
    one = Fabric(accelerator=fabric.device.type, devices=devices, precision=fabric._precision.precision)
    one.launch()
    return one
