"""GPUs that this process may use, as the driver reports them.

So containers, WSL2, CUDA_VISIBLE_DEVICES and its order are taken into account. Needs only the
standard library (torch for AMD's GPUs). A separate process asks, so that this one loads no driver.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

CUDA, HIP = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
NO_DEVICE = 100  # of the driver's answers
PATIENCE = 120  # seconds; a driver that initialises eight GPUs takes some


class Gpu(NamedTuple):
    """A GPU, or an instance of one that is shared (MIG)."""

    name: str
    """As the variables `Gpus.variables` take it."""
    uuid: str
    """The same in every process of this machine, whatever its variables."""


class Gpus(NamedTuple):
    """GPUs that `visible_gpus` found."""

    devices: tuple[Gpu, ...]
    reason: str = ""
    """Why there are none."""
    variables: tuple[str, ...] = (CUDA,)
    """Variables that restrict a process to some of them."""


def visible_gpus() -> Gpus:
    """The GPUs that a process started now would see, in its order; cached by the variables."""
    return _visible_gpus(os.environ.get(CUDA), os.environ.get(HIP))


@functools.cache
def _visible_gpus(cuda: str | None, hip: str | None) -> Gpus:
    answer = _ask()
    if answer["kind"] == "hip":
        devices = _named(answer["uuids"], cuda if hip is None else hip)
        return Gpus(devices, answer["reason"], (HIP, CUDA))
    devices = _named(answer["uuids"], cuda)
    if len(devices) == 1:
        devices = _instances(cuda) or devices
    return Gpus(devices, answer["reason"])


def _named(uuids: list[str], chosen: str | None) -> tuple[Gpu, ...]:
    """Devices are named as in the variable that lists them, else by number."""
    names = map(str, range(len(uuids))) if chosen is None else map(str.strip, chosen.split(","))
    return tuple(Gpu(name, uuid or name) for name, uuid in zip(names, uuids, strict=False))


def _instances(chosen: str | None) -> tuple[Gpu, ...]:
    """MIG instances: a process sees one of them only, even where several may be used."""
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",")]
        return tuple(Gpu(name, name) for name in names if name.startswith("MIG-"))
    try:
        listing = _output("nvidia-smi", "-L")
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(Gpu(uuid, uuid) for uuid in instances_of(listing))


def _output(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return result.stdout


def instances_of(listing: str) -> list[str]:
    """UUIDs of MIG instances and whole GPUs, from `nvidia-smi -L`; none where no GPU is shared."""
    found: list[tuple[str, list[str]]] = []
    for kind, uuid in re.findall(r"^(GPU|\s+MIG) .*\(UUID: (\S+)\)", listing, re.MULTILINE):
        if kind == "GPU":
            found.append((uuid, []))
        elif found:
            found[-1][1].append(uuid)
    if not any(instances for _, instances in found):
        return []
    return [uuid for gpu, instances in found for uuid in instances or [gpu]]


def _ask() -> dict[str, Any]:
    """Output of `main`, run in a separate process."""
    try:
        return json.loads(_output(sys.executable, "-P", __file__).splitlines()[-1])
    except subprocess.TimeoutExpired:
        reason = f"the GPU driver did not answer within {PATIENCE} s"
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [error])[-1]
        reason = f"asking the GPU driver failed: {last}"
    return {"kind": "cuda", "uuids": [], "reason": reason}


def main() -> None:
    """Print the GPUs this process sees: `kind` cuda or hip, `uuids`, and why there are none."""
    try:
        kind, uuids, reason = "cuda", *cuda_uuids(ctypes.CDLL("libcuda.so.1"))
    except OSError:
        kind, uuids, reason = "cuda", [], "no NVIDIA driver (libcuda.so.1) is installed"
    if not uuids and Path("/dev/kfd").exists():
        kind, uuids, reason = "hip", *hip_uuids()
    print(json.dumps({"kind": kind, "uuids": uuids, "reason": reason}))


def cuda_uuids(driver: Any) -> tuple[list[str], str]:
    """UUIDs in hexadecimal in the order of CUDA, and why there are none; `driver` is libcuda."""
    count, device, uuid = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
    code, uuids = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)), []
    for number in range(count.value):
        code = code or driver.cuDeviceGet(ctypes.byref(device), number)
        # the second version knows MIG instances, too
        get_uuid = getattr(driver, "cuDeviceGetUuid_v2", driver.cuDeviceGetUuid)
        code = code or get_uuid(uuid, device)
        uuids.append(bytes(uuid).hex())
    if code not in (0, NO_DEVICE):
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        return [], f"CUDA's driver answers: {(text.value or b'unknown error').decode()} ({code})"
    if uuids:
        return uuids, ""
    chosen = os.environ.get(CUDA)
    return [], "CUDA sees no device" + ("" if chosen is None else f" with {CUDA}={chosen!r}")


def hip_uuids() -> tuple[list[str], str]:
    """The same of AMD's GPUs, asked of torch; an unknown UUID is empty."""
    try:
        import torch
    except ImportError:
        return [], "there are AMD GPUs (/dev/kfd), but no torch"
    if torch.version.hip is None:
        return [], "there are AMD GPUs (/dev/kfd), but this torch is not built for ROCm"
    found = [*map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))]
    return [str(getattr(gpu, "uuid", "")) for gpu in found], "" if found else "ROCm shows no GPU"


if __name__ == "__main__":
    main()
