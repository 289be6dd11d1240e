"""`vrpo STAGE ...`, and `vrpo --gpus N STAGE ...`, which runs a stage on N GPUs of its own."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command."""
    first, _, count = (sys.argv[1] if len(sys.argv) > 1 else "").partition("=")
    if first == "--gpus":
        from vrpo.launch import launch

        launch(*([count, sys.argv[2:]] if count else [" ".join(sys.argv[2:3]), sys.argv[3:]]))
    else:
        from vrpo.cli import main as run

        run()


if __name__ == "__main__":
    main()
