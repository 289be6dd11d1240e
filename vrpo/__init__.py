"""VRPO: representation alignment for diffusion transformers, trained and measured in one pipeline.

Rooms, in the order data takes (each imports only from those before it):
config -> data -> models -> prepare -> processes -> alignment -> training -> sampling -> metrics -> reporting -> cli.
"""

__version__ = "0.1.0"
