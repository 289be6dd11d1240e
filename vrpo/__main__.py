"""`python -m vrpo STAGE ...`."""

from vrpo.cli import main

if __name__ == "__main__":
    main()
