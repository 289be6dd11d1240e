"""VRPO: representation alignment for diffusion transformers, trained and measured in one pipeline.

vrpo/README.md lists the packages; each imports only from those above it in the list.
"""

__version__ = "0.2.0"  # the version's home
