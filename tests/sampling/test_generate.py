import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from vrpo.config.networks import TokenizerOptions
from vrpo.config.scoring import SamplerOptions
from vrpo.data.arrays import Arrays, ArrayWriter
from vrpo.errors import UserError
from vrpo.models.checkpoints import save_network
from vrpo.models.tokenizer import build_vae, vae_arguments
from vrpo.sampling import generate
from vrpo.sampling.decoding import to_uint8
from vrpo.sampling.draws import ImageDraws
from vrpo.sampling.generate import sample_images

from tests.fixtures import golden
from tests.fixtures.sampling import PROCESSES, write_milestone

TOKENIZER = TokenizerOptions(block_channels=[8, 8])
KINDS = {"ode-heun": "sit", "sde": "sit", "ddpm": "dit", "ddim": "dit"}


def write_folder(folder):
    for process in PROCESSES:
        write_milestone(folder / f"{process}.safetensors", process)
    arguments = vae_arguments(TOKENIZER, 16)
    save_network(
        folder / "tokenizer.safetensors",
        golden.fill(build_vae(arguments)).state_dict(),
        {"kind": "tokenizer", "arguments": arguments, "scale": 1.3},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("milestones")
    write_folder(path)
    return path


def options(kind, images, **others):
    guidance = {"scale": 1.5, "interval": (0.0, 0.7), "channels": 3}
    return SamplerOptions(
        **{"kind": kind, "steps": 4, "images": images, "guidance": guidance, **others}
    )


def run(folder, chosen, output, process=None):
    sample_images(
        chosen,
        folder / f"{process or KINDS[chosen.kind]}.safetensors",
        TOKENIZER,
        folder / "tokenizer.safetensors",
        output,
        "cpu",
    )
    return Arrays(output)


@pytest.mark.parametrize("kind", KINDS)
def test_images_do_not_depend_on_batch_size_or_count(folder, tmp_path, kind):
    """130 images are two full batches on the CPU and one that is filled up.

    70 of them, or 7, are the same images.
    """
    whole = run(folder, options(kind, 130, batch_size=64), tmp_path / "64.h5")
    run(folder, options(kind, 130, batch_size=7), tmp_path / "7.h5")
    assert (tmp_path / "64.h5").read_bytes() == (tmp_path / "7.h5").read_bytes()
    for count in (7, 70):
        part = run(folder, options(kind, count), tmp_path / f"{count}.h5")
        assert np.array_equal(part["images"], whole["images"][:count])
        assert np.array_equal(part["labels"], whole["labels"][:count])
    assert whole["images"].shape == (130, 16, 16, 3)
    assert len(np.unique(whole["images"].reshape(130, -1), axis=0)) == 130


def test_attributes_are_the_protocol(folder, tmp_path):
    attributes = run(folder, options("sde", 3, rounding="round"), tmp_path / "a.h5").attributes
    assert {key: attributes[key] for key in ("run", "seed", "step")} == {
        "run": "sit",
        "seed": 3,
        "step": 7,
    }
    assert attributes["sampler"] == {
        "kind": "sde",
        "steps": 4,
        "images": 3,
        "guidance": {"scale": 1.5, "interval": [0.0, 0.7], "channels": 3},
        "labels": "random",
        "rounding": "round",
        "seed": 0,
        "precision": "fp32",
    }
    assert attributes["tokenizer"]["scale"] == 1.3
    assert len(attributes["milestone_sha256"]) == len(attributes["tokenizer"]["sha256"]) == 64
    assert attributes["versions"].keys() == {"torch", "vrpo"}


def test_bf16_gives_nearly_the_same_images_and_is_in_the_protocol(folder, tmp_path):
    plain, half = (
        run(folder, options("sde", 8, precision=precision), tmp_path / f"{precision}.h5")
        for precision in ("fp32", "bf16")
    )
    difference = np.abs(plain["images"].astype(int) - half["images"].astype(int))
    assert 0 < difference.mean() < 4
    assert half.attributes["sampler"]["precision"] == "bf16"


def test_runs_with_equal_seed_share_labels_and_start_and_others_do_not():
    first, again, other = (
        ImageDraws(seed, range(10, 15), (4, 8, 8), torch.device("cpu")) for seed in (0, 0, 1)
    )
    assert torch.equal(first.labels("random", 1000), again.labels("random", 1000))
    start = first.normal()
    assert torch.equal(start, again.normal())
    assert not torch.equal(start, first.normal())
    assert not torch.equal(start[0], start[1])
    other.labels("random", 1000)
    assert not torch.equal(start, other.normal())


def test_labels_random_are_uniform_and_balanced_are_equal():
    draws = ImageDraws(0, range(5_000), (1,), torch.device("cpu"))
    counts = draws.labels("random", 10).bincount(minlength=10)
    assert len(counts) == 10
    assert (counts - 500).abs().max() < 5 * 500**0.5
    assert (draws.labels("balanced", 10).bincount() == 500).all()


def test_rounding_as_in_the_papers():
    images = torch.tensor([-1.5, -1.0, -0.999, 0.0, 0.004, 1.0, 2.0]).expand(1, 3, 1, 7)
    assert to_uint8(images, "truncate")[0, 0, :, 0].tolist() == [0, 0, 0, 127, 128, 255, 255]
    assert to_uint8(images, "round")[0, 0, :, 0].tolist() == [0, 0, 0, 128, 128, 255, 255]


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.sampling import test_generate
from vrpo.data.arrays import ArrayWriter

write, written = ArrayWriter.write, []

def write_and_die(self, start, rows):
    write(self, start, rows)
    self._make_durable()
    written.append(start)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

ArrayWriter.write = write_and_die
test_generate.run(Path(sys.argv[1]), test_generate.options("ddpm", 150), Path(sys.argv[2]))
"""


def test_killed_sampling_goes_on_to_the_same_bytes(folder, tmp_path, monkeypatch):
    output = tmp_path / "killed.h5"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), str(output)],
        env=environment,
        capture_output=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert not output.exists()
    starts, write = [], ArrayWriter.write
    monkeypatch.setattr(
        ArrayWriter,
        "write",
        lambda self, start, rows: (starts.append(start), write(self, start, rows)),
    )
    run(folder, options("ddpm", 150), output)
    assert starts == [2 * generate.CPU_BATCH]
    run(folder, options("ddpm", 150), tmp_path / "undisturbed.h5")
    assert output.read_bytes() == (tmp_path / "undisturbed.h5").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".verified") == [
        "killed.h5",
        "undisturbed.h5",
    ]


def test_ranks_make_the_same_file(folder, tmp_path):
    """Two processes resume one's file; the last round has 44 images, none for the second rank."""
    chosen = options("ddpm", 300, steps=2)
    (tmp_path / "sampler.yaml").write_text(yaml.safe_dump(chosen.model_dump(mode="json")))
    (tmp_path / "tokenizer.yaml").write_text(yaml.safe_dump(TOKENIZER.model_dump(mode="json")))
    run(folder, chosen, tmp_path / "one.h5")
    write_beginning(tmp_path / "one.h5", tmp_path / "two.h5", rows=2 * generate.CPU_BATCH)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "vrpo",
        "sample",
        "--device",
        "cpu",
    ]
    command += [
        "--config",
        tmp_path / "sampler.yaml",
        "--milestone",
        folder / "dit.safetensors",
        "--output",
        tmp_path / "two.h5",
    ]
    command += [
        "--tokenizer-config",
        tmp_path / "tokenizer.yaml",
        "--tokenizer-weights",
        folder / "tokenizer.safetensors",
    ]
    result = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "two.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()


def write_beginning(whole, output, rows):
    """Write the file of a sampling that was killed after `rows` rows."""
    arrays = Arrays(whole)
    shapes = {name: (arrays.shape(name), arrays[name].dtype) for name in ("images", "labels")}
    with ArrayWriter(output, shapes, arrays.attributes) as writer:
        writer.write(0, {name: np.array(arrays[name][:rows]) for name in shapes})
        writer._make_durable()


@pytest.mark.parametrize(
    ("chosen", "process", "message"),
    [
        (options("ddpm", 3), "sit", "use one of ode-euler, ode-heun, ode-dopri5, sde"),
        (options("ddim", 3, steps=1001), "dit", "choose at most 1000"),
        (
            options("sde", 3, guidance={"scale": 2.0, "channels": 5}),
            "sit",
            "more than the latent's 4",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    folder, tmp_path, chosen, process, message
):
    with pytest.raises(UserError, match=message):
        run(folder, chosen, tmp_path / "a.h5", process)
    assert list(tmp_path.iterdir()) == []


def test_other_tokenizer_and_diverged_network_are_refused(folder, tmp_path):
    write_milestone(tmp_path / "wide.safetensors", "sit", channels=6)
    with pytest.raises(UserError, match=r"latents of 6 channels, the tokenizer has 4"):
        sample_images(
            options("sde", 3),
            tmp_path / "wide.safetensors",
            TOKENIZER,
            folder / "tokenizer.safetensors",
            tmp_path / "a.h5",
            "cpu",
        )
    write_milestone(tmp_path / "broken.safetensors", "sit", break_it=True)
    with pytest.raises(UserError, match=r"broken.safetensors: not finite at images 0 to 2"):
        sample_images(
            options("sde", 3),
            tmp_path / "broken.safetensors",
            TOKENIZER,
            folder / "tokenizer.safetensors",
            tmp_path / "a.h5",
            "cpu",
        )
    assert not (tmp_path / "a.h5").exists()
