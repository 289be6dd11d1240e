"""`compile: true` where nothing can be compiled is one line, before any data is read."""

import errno
import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler, TritonMissing

import vrpo
from benchmarks.commands import app
from vrpo.config.scoring import SamplerOptions
from vrpo.errors import UserError
from vrpo.runtime import compiler
from vrpo.runtime.compiler import explained, require_compiler
from vrpo.sampling.generate import sample_images

from tests.fixtures.training import Toy

IMAGENET = Path(vrpo.__file__).parents[1] / "config/imagenet256.yaml"
NO_HEADERS = (
    "C++ compile error\n\nCommand:\ng++ x.cpp\n\nOutput:\nx.cpp:2:10: fatal "
    "error: Python.h: No such file or directory\ncompilation terminated."
)
NO_ASSEMBLER = "g++: fatal error: cannot execute 'as': execvp: No such file or directory"


@pytest.mark.parametrize(
    ("error", "cause", "remedy"),
    [
        (
            InductorError(InvalidCxxCompiler(), None),
            "there is no working C++ compiler",
            "install one",
        ),
        (
            RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
            "there is no working C++ compiler",
            "install one",
        ),
        (
            InductorError(CppCompileError(["g++", "x.cpp"], NO_HEADERS), None),
            "the headers of Python are missing",
            "python3-dev",
        ),
        (
            InductorError(CppCompileError(["g++", "x.cpp"], NO_ASSEMBLER), None),
            f"CppCompileError: {NO_ASSEMBLER}",
            "repair the compiler",
        ),
        (InductorError(TritonMissing(None), None), "Triton is missing", "install the triton"),
        (
            OSError(errno.EROFS, "Read-only file system", "/scratch/cache"),
            "its cache cannot be written",
            "TORCHINDUCTOR_CACHE_DIR",
        ),
        (RuntimeError("first line\nof many"), "RuntimeError: first line", "repair"),
    ],
)
def test_the_cause_of_a_failed_compilation(error: Exception, cause: str, remedy: str) -> None:
    found = explained(error)
    assert cause in found[0] and remedy in found[1] and "\n" not in "".join(found)


def test_a_training_without_a_compiler_ends_before_it_reads_anything(tmp_path: Path) -> None:
    """A compiler of C++ that does not work in place of the real one; inputs do not exist."""
    toy = Toy(tmp_path)
    command = toy.command(toy.config("repa", compile=True), tmp_path / "run", 5)
    command[command.index("--latents") + 1] = str(tmp_path / "never-read.h5")
    environment = {
        **os.environ,
        "CXX": "/bin/false",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said = [
        line
        for line in result.stderr.splitlines()
        if line.startswith("vrpo: error") or "Traceback" in line
    ]
    assert result.returncode == 2 and len(said) == 1
    assert said[0].startswith(
        "vrpo: error: training.compile: torch.compile does not work on this machine, "
        "there is no working C++ compiler; install one"
    )
    assert said[0].endswith("or set it to false")
    assert not list((tmp_path / "run").glob("*.csv"))


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(*_: object, **__: object) -> object:
        raise InductorError(InvalidCxxCompiler(), None)

    monkeypatch.setattr(torch, "compile", compile)


@pytest.mark.usefixtures("broken")
def test_a_sampler_and_a_benchmark_that_compile_ask_first(tmp_path: Path) -> None:
    options = SamplerOptions(kind="sde", images=4, compile=True)
    with pytest.raises(
        UserError, match=r"^samplers.<name>.compile: .* install one .* or set it to false$"
    ):
        sample_images(
            options, tmp_path / "never-read.safetensors", None, None, tmp_path / "out.h5", "cpu"
        )
    message = r"^training.compile: .* or give --set training.compile=false$"
    with pytest.raises(UserError, match=message):
        app(["train", "sit-b2-repa", "--config", str(IMAGENET), "--device", "cpu"])


def test_each_probe_is_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of an earlier run works without a compiler.

    The training's own code is not in it.
    """
    constants = []

    def compile(function, **_: object):
        constants.append(float(function(torch.zeros(1, 1))))
        return function

    monkeypatch.setattr(compiler.torch, "compile", compile)
    for _ in range(2):
        require_compiler(torch.device("cpu"), "training.compile")
    assert constants[0] != constants[1]
