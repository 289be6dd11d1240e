"""`python -m benchmarks COMMAND ...`, from the root of the repository."""

from benchmarks.commands import main

if __name__ == "__main__":
    main()
