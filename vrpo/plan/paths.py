"""The one map of an experiment's result paths."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vrpo.config.experiment import ExperimentConfig


@dataclass(frozen=True)
class Paths:
    """Result paths of one experiment.

    Names and seeds may be Snakemake's wildcards, e.g. `{run}`. Steps are integers, or text as file
    names have it.
    """

    folder: Path
    shards: int = 1
    online: Collection[str] = ()
    """Encoders whose features are computed when needed: described in a file, not stored."""

    @classmethod
    def of(cls, config: ExperimentConfig) -> Paths:
        """The paths of an experiment."""
        online = {name for name, encoder in config.encoders.items() if encoder.features == "online"}
        return cls(Path(config.results) / config.experiment, config.data.shards, online)

    # ---- data: folders of shards ----------------------------------------------------------------

    @property
    def images(self) -> Path:
        """Folder of the training images."""
        return self.folder / "images"

    @property
    def latents(self) -> Path:
        """Folder of the latents."""
        return self.folder / "latents"

    def features(self, encoder: str) -> Path:
        """Folder of an encoder's features, or the description of an online encoder."""
        folder = self.folder / "features" / encoder
        return folder.with_name(f"{encoder}.json") if encoder in self.online else folder

    def shard(self, arrays: Path, shard: int | str = "{shard}") -> Path:
        """One file of stored arrays."""
        return arrays / f"shard-{_padded(shard, 5)}-of-{self.shards:05d}.h5"

    def files(self, arrays: Path) -> list[Path]:
        """All files of stored arrays; of an online encoder, its description."""
        if arrays.suffix == ".json":
            return [arrays]
        return [self.shard(arrays, shard) for shard in range(self.shards)]

    @property
    def listing(self) -> Path:
        """Names, sizes and labels of the source's images."""
        return self.folder / "images.listing.npz"

    @property
    def manifest(self) -> Path:
        """Counts and names of the classes, and images that were left out."""
        return self.folder / "images.json"

    @property
    def reference(self) -> Path:
        """Statistics that samples are compared with."""
        return self.folder / "reference.npz"

    def network(self, name: str) -> Path:
        """A network that is fitted here: `tokenizer`, `encoder-<e>`, `critic-<e>`, ..."""
        return self.folder / f"networks/{name}.safetensors"

    # ---- runs -----------------------------------------------------------------------------------

    def run(self, run: str, seed: int | str) -> Path:
        """Folder of one training."""
        return self.folder / "runs" / run / f"seed{seed}"

    def run_config(self, run: str, seed: int | str) -> Path:
        """All that one training depends on."""
        return self.run(run, seed) / "config.yaml"

    def milestone(self, run: str, seed: int | str, step: int | str) -> Path:
        """Weights of a run at a milestone."""
        return self.run(run, seed) / f"step{_padded(step, 7)}.safetensors"

    def samples(self, run: str, seed: int | str, step: int | str, sampler: str) -> Path:
        """Images sampled from a milestone."""
        return self.folder / "samples" / _evaluation(run, seed, step, sampler, ".h5")

    def metrics(self, run: str, seed: int | str, step: int | str, sampler: str) -> Path:
        """Scores of these images."""
        return self.folder / "metrics" / _evaluation(run, seed, step, sampler, ".json")

    def class_tokens(self, encoder: str) -> Path:
        """Mean tokens of each class, targets of guidance."""
        return self.folder / f"targets/{encoder}/classes.safetensors"

    def image_tokens(self, encoder: str, sampler: str) -> Path:
        """Tokens of the image that a sampler is guided by."""
        return self.folder / f"targets/{encoder}/image-{sampler}.safetensors"

    def moments(self, run: str, seed: int | str, step: int | str) -> Path:
        """Deviation of a milestone's semantic reward by noise level."""
        return self.folder / f"moments/{run}/seed{seed}/step{_padded(step, 7)}.json"

    def representation(self, run: str, seed: int | str, step: int | str) -> Path:
        """Quality of a milestone's hidden representations."""
        return self.folder / f"representation/{run}/seed{seed}/step{_padded(step, 7)}.json"

    # ---- configs, logs and the report -----------------------------------------------------------

    def config(self, name: str) -> Path:
        """Resolved config of a stage."""
        return self.folder / f"config/{name}.yaml"

    def log(self, name: str) -> Path:
        """Log of a job."""
        return self.folder / f"logs/{name}.log"

    @property
    def collected(self) -> Path:
        """Folder of all that figures and tables are made of."""
        return self.folder / "collected"

    def drawn(self, kind: str, file: str) -> Path:
        """A file of a figure or table, e.g. (`figure`, `fid.pdf`)."""
        return self.folder / f"{kind}s" / file

    @property
    def report(self) -> Path:
        """The page with all of it."""
        return self.folder / "report.html"

    @property
    def readme(self) -> Path:
        """Page that explains the result files."""
        return self.folder / "README.md"

    @property
    def guidance(self) -> Path:
        """Folder of the table and figures of the samplers."""
        return self.folder / "guidance"

    @property
    def benchmark(self) -> Path:
        """Folder of the method benchmark's figures and tables."""
        return self.folder / "benchmark"


def _evaluation(run: str, seed: int | str, step: int | str, sampler: str, suffix: str) -> str:
    """Name of the samples or scores of a milestone."""
    return f"{run}/seed{seed}/step{_padded(step, 7)}/{sampler}{suffix}"


def file_step(step: int) -> str:
    """A milestone as file names have it: at least seven digits."""
    return _padded(step, 7)


def _padded(number: int | str, digits: int) -> str:
    return f"{number:0{digits}d}" if isinstance(number, int) else number
