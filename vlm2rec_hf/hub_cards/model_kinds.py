"""Every kind of model that this package publishes: one entry per `model_type`, one file `kind_*.py` per kind."""

from __future__ import annotations

from .kind import ModelKind
from .kind_dmesr import DMESR
from .kind_embedder import EMBEDDER
from .kind_head import HEAD
from .kind_pixrec import PIXREC

MODEL_KINDS: dict[str, ModelKind] = {"vlm2rec": EMBEDDER, "seqrec": HEAD, "pixrec": PIXREC, "dmesr": DMESR}
"""`model_type` -> kind."""


def kind_of(model_type: str) -> ModelKind:
    """The kind of a `model_type`.

    Raises:
        ValueError: this package does not publish such models.
    """
    if model_type not in MODEL_KINDS:
        raise ValueError(
            f"`model_type` {model_type!r} cannot be published; this package publishes {sorted(MODEL_KINDS)}."
        )
    return MODEL_KINDS[model_type]
