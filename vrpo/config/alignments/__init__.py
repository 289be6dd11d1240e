"""Options of the alignment losses: a file for each kind, and `KINDS`, the one list of them.

A built-in loss is `vrpo/config/alignments/<kind>.py` with its options, `vrpo/alignment/<kind>.py`
with the class that its options name in `loss`, and its place in `KINDS`.
"""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Annotated, get_args

from pydantic import Field

from vrpo.config.alignments.base import NoAlignment
from vrpo.config.alignments.contrastive import ContrastiveOptions
from vrpo.config.alignments.custom import CustomOptions
from vrpo.config.alignments.dispersive import DispersiveOptions
from vrpo.config.alignments.haste import HASTEOptions
from vrpo.config.alignments.irepa import IREPAOptions
from vrpo.config.alignments.reg import REGOptions
from vrpo.config.alignments.relational import RelationalOptions
from vrpo.config.alignments.repa import REPAOptions
from vrpo.config.alignments.sra import SRAOptions
from vrpo.config.alignments.vrpo import VRPOOptions

KINDS = (
    NoAlignment,
    REPAOptions,
    VRPOOptions,
    IREPAOptions,
    HASTEOptions,
    REGOptions,
    ContrastiveOptions,
    DispersiveOptions,
    SRAOptions,
    RelationalOptions,
    CustomOptions,
)
AnyAlignment = Annotated[reduce(or_, KINDS), Field(discriminator="kind")]
ALIGNMENT_NAMES = {
    get_args(kind.model_fields["kind"].annotation)[0]: kind.title for kind in KINDS if kind.title
}
"""{kind: its name in papers}; a custom loss has the name of its row."""
