"""Too little memory is one line that names an option; peaks of memory, by hand."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

from vrpo import cli
from vrpo.config.reading import read_experiment
from vrpo.config.scoring import SamplerOptions
from vrpo.errors import UserError
from vrpo.prepare import latents
from vrpo.runtime import gpus, precision
from vrpo.runtime.gpus import Gpu, Gpus
from vrpo.runtime.memory import failed_size, is_out_of_memory, peak_of, tensor_bytes
from vrpo.runtime.precision import require_precision
from vrpo.sampling import generate
from vrpo.sampling.generate import sample_images
from vrpo.training import run
from vrpo.workflow import preflight

from tests.fixtures import ROOT
from tests.fixtures.training import Toy

MORE_THAN_THERE_IS = 1 << 50
WANTED = " (could not allocate 4,194,304.00 GiB)"
ON_A_GPU = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.65 GiB of "
    "which 1.31 GiB is free. Process 1 has 22.30 GiB memory in use."
)


def test_peak_of_tensors_by_hand() -> None:
    def work() -> None:
        a = torch.zeros(1000, 250)
        b = a + 1
        del a
        del b

    assert peak_of(work, torch.device("cpu")) == pytest.approx(2 * 4 * 1000 * 250, rel=0.1)


def test_bytes_of_tensors_by_hand() -> None:
    kept = torch.zeros(10, 100)
    nested = {"whole": kept, "parts": [kept[:5], (kept[5:],)], "other": 3}
    assert tensor_bytes(nested) == 4 * 10 * 100


def test_failed_allocations_are_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(MORE_THAN_THERE_IS)
    assert is_out_of_memory(failed.value)
    assert failed_size(str(failed.value)) == WANTED
    assert is_out_of_memory(torch.OutOfMemoryError(ON_A_GPU))
    assert failed_size(ON_A_GPU) == " (could not allocate 2.50 GiB of 23.65 GiB)"
    for text in (
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "NCCL error: unhandled cuda error\nCuda failure 2 'out of memory'",
        f"backend='inductor' raised:\nOutOfMemoryError: {ON_A_GPU}",
    ):
        assert is_out_of_memory(RuntimeError(text), torch.device("cuda"))
        assert not is_out_of_memory(RuntimeError(text), torch.device("cpu"))
    assert not is_out_of_memory(failed.value, torch.device("cuda"))
    assert is_out_of_memory(failed.value, torch.device("cpu")) and is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert failed_size("shapes do not match") == ""


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("encode-latents", "tokenizer.batch_size: there is too little memory{}; lower it, or "),
        ("train", "vrpo train: there is too little memory{}; use a machine or GPU with more, or "),
    ],
)
def test_the_option_of_a_command_is_named(command: str, line: str) -> None:
    with pytest.raises(UserError) as refused, cli._enough_memory([command, "--output", "x"]):
        torch.empty(MORE_THAN_THERE_IS)
    assert str(refused.value) == line.format(WANTED) + "stop other programs that use it"


def test_a_command_ends_with_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    config = tmp_path / "tokenizer.yaml"
    config.write_text("{}")
    monkeypatch.setattr(latents, "encode_latents", lambda *_: torch.empty(MORE_THAN_THERE_IS))
    files = ["--images", "images.h5", "--output", "latents.h5"]
    arguments = ["vrpo", "encode-latents", "--config", str(config), *files]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"vrpo: error: tokenizer.batch_size: there is too little memory{WANTED}; "
        "lower it, or stop other programs that use it\n"
    )


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="shapes"), cli._enough_memory(["sample"]):
        raise RuntimeError("shapes do not match")


def test_options_are_those_of_commands() -> None:
    commands = {each.name for group in cli.app.registered_groups
                for each in group.typer_instance.registered_commands}  # fmt: skip
    assert cli.BATCHES.keys() <= commands


def test_stages_and_the_check_before_them_ask_for_their_precision(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(precision: str, device: torch.device, option: str) -> None:
        raise UserError(f"{option}: {precision} is refused")

    for module in (run, generate, precision):
        monkeypatch.setattr(module, "require_precision", refused)
    with pytest.raises(UserError, match=r"^training.precision: bf16 is refused"):
        toy.train_to(toy.config(precision="bf16"), tmp_path, 1)
    sampler = SamplerOptions(kind="sde", images=4, precision="tf32")
    with pytest.raises(UserError, match=r"^samplers.<name>.precision: tf32 is refused"):
        sample_images(sampler, tmp_path / "no", None, None, tmp_path / "out.h5", "cpu")
    one = Gpus((Gpu("0", "00"),), "")
    monkeypatch.setattr(gpus, "visible_gpus", lambda: one)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"^training.precision: fp32 is refused"):
        preflight._gpus(read_experiment([ROOT / "config/mini.yaml"], ["resources.device=auto"]))


@pytest.mark.parametrize("native", [True, False])
def test_bf16_that_a_gpu_only_emulates_is_refused(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    gpu, option = torch.device("cuda", 0), "training.precision"
    require_precision("fp32", gpu, option)
    require_precision("bf16", torch.device("cpu"), option)
    if native:
        require_precision("bf16", gpu, option)
    else:
        with pytest.raises(UserError, match=r"precision: Tesla T4 .* bf16; set it to fp32"):
            require_precision("bf16", gpu, option)
