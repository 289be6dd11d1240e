"""1.28 million samples, as files of the true sizes that take no disk: what opening them costs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import vrpo

CHILD = """
import json, resource, sys
from pathlib import Path
import numpy as np
from benchmarks.sparse import write_sparse
from vrpo.data.batches import TrainingData, sample_indices

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def read():
    return int(Path("/proc/self/io").read_text().split()[1])

count, shards, folder = 1_281_167, 4, Path(sys.argv[1])
images = {"images": "imagenet"}
moments = ((count, 4, 32, 32), "float16")
latents = {"mean": moments, "std": moments, "labels": ((count,), "int64")}
write_sparse(folder / "latents.h5", latents, images)
for shard in range(shards):
    rows = (shard + 1) * count // shards - shard * count // shards
    features = {
        "tokens": ((rows, 256, 768), "int8"),
        "scale": ((rows, 256), "float16"),
        "error": ((rows, 2), "float32"),
    }
    own = {"shard": {"index": shard, "of": shards, "error": {"mean": 0.0, "worst": 0.0}}}
    name = f"shard-{shard:05d}-of-{shards:05d}.h5"
    write_sparse(folder / "features" / name, features, {**images, "storage": "int8", **own})
size = sum(path.stat().st_size for path in folder.rglob("*.h5"))
before, read_before = resident(), read()
data = TrainingData(folder / "latents.h5", {"dinov2-b": folder / "features"})
batch = data.gather(sample_indices(data.count, 256, 0, 0))
opening = read() - read_before
for step in range(1, 12):  # across shards, and with all that stays in memory
    data.gather(sample_indices(data.count, 256, 0, 500 * step))
grown, tokens = resident() - before, list(batch.tokens["dinov2-b"].shape)
found = {"count": data.count, "bytes": size, "read": opening, "grown": grown, "tokens": tokens}
print(json.dumps(found))
"""


def test_imagenets_size_is_opened_without_reading_it_and_stays_out_of_memory(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(vrpo.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    print(found)
    assert (
        found["count"] == 1_281_167
        and found["bytes"] > 270e9
        and found["tokens"] == [256, 256, 768]
    )
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*.h5")) < 100e6
    assert found["grown"] < found["bytes"] / 100
    assert found["read"] < found["bytes"] / 100
