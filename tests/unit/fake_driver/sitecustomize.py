"""A CUDA driver of FAKE_GPUS devices in every Python that finds this file: `libcuda.so.1` as `ctypes` sees it, CUDA_VISIBLE_DEVICES included."""

import ctypes
import os
from types import SimpleNamespace
from typing import Any


def uuid_of(number: int) -> bytes:
    return bytes([number + 1] * 16)


def name_of(number: int) -> str:
    digits = uuid_of(number).hex()
    return f"GPU-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def fake_driver(count: int, answer: int = 0) -> SimpleNamespace:
    """The functions that `vrpo.runtime.gpus` calls; `answer` is what the first one returns."""
    visible = visible_of(count, os.environ.get("CUDA_VISIBLE_DEVICES"))

    def fill(place: Any, value: object) -> int:
        place._obj.value = value
        return 0

    def uuid(place: Any, device: Any) -> int:
        place[:] = uuid_of(device.value)
        return 0

    return SimpleNamespace(
        cuInit=lambda flags: answer or (0 if visible else 100),
        cuDeviceGetCount=lambda place: fill(place, len(visible)),
        cuDeviceGet=lambda place, number: fill(place, visible[number]),
        cuDeviceGetUuid=uuid,
        cuDeviceGetUuid_v2=uuid,
        cuGetErrorString=lambda code, place: fill(
            place, b"system has unsupported display driver / cuda driver combination"
        ),
    )


def visible_of(count: int, chosen: str | None) -> list[int]:
    """Of `count` devices those that CUDA_VISIBLE_DEVICES lets be seen, in its order; what follows an unknown one is not looked at."""
    names = {name: number for number in range(count) for name in (str(number), name_of(number))}
    visible = []
    for name in names if chosen is None else chosen.split(","):
        if name.strip() not in names:
            break
        if chosen is not None or name.isdigit():
            visible.append(names[name.strip()])
    return visible


if "FAKE_GPUS" in os.environ:
    load = ctypes.CDLL
    ctypes.CDLL = lambda name, *rest, **options: (
        fake_driver(int(os.environ["FAKE_GPUS"]))
        if name == "libcuda.so.1"
        else load(name, *rest, **options)
    )
