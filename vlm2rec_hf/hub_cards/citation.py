"""What to cite, as BibTeX."""

from __future__ import annotations

from .markdown import Markdown, fenced

_VLM2REC = """@misc{vlm2rec,
  title         = {{VLM2Rec}},
  year          = {2026},
  eprint        = {2603.17450},
  archivePrefix = {arXiv},
  url           = {https://arxiv.org/abs/2603.17450}
}"""
_DMESR = """@misc{dmesr,
  title         = {{DMESR}},
  year          = {2026},
  eprint        = {2602.13715},
  archivePrefix = {arXiv},
  url           = {https://arxiv.org/abs/2602.13715}
}"""
_PIXREC = """@misc{pixrec,
  title         = {{PixRec}},
  year          = {2026},
  eprint        = {2601.06458},
  archivePrefix = {arXiv},
  url           = {https://arxiv.org/abs/2601.06458}
}"""
_METHODS = {"VLM2Rec": _VLM2REC, "PixRec": _PIXREC, "DMESR": _DMESR}
_ENCODERS = {
    "sasrec": ("Self-Attentive Sequential Recommendation", "2018", "1808.09781"),
    "gru4rec": ("Session-based Recommendations with Recurrent Neural Networks", "2015", "1511.06939"),
    "bert4rec": (
        "{BERT4Rec}: Sequential Recommendation with Bidirectional Encoder Representations from Transformer",
        "2019",
        "1904.06690",
    ),
}


def bibtex(method: str | None, encoder: str | None = None, *, dataset: bool = False) -> Markdown:
    """Entries for the paper behind a method, a head's encoder, and the package.

    Args:
        method: as in `training.json`; None counts as VLM2Rec, the method this package is for.
        encoder: of a head.
        dataset: add that the data's own source is to be cited, which nobody recorded.
    """
    from ..version import __version__

    name = method.split()[0] if method else "VLM2Rec" if encoder is None else ""
    entries = [_METHODS[name]] if name in _METHODS else []
    if encoder in _ENCODERS:
        title, year, number = _ENCODERS[encoder]
        entries.append(
            f"@misc{{{encoder},\n  title         = {{{title}}},\n  year          = {{{year}}},\n"
            f"  eprint        = {{{number}}},\n  archivePrefix = {{arXiv}},\n"
            f"  url           = {{https://arxiv.org/abs/{number}}}\n}}"
        )
    entries.append(f"@software{{vlm2rec_hf,\n  title   = {{vlm2rec-hf}},\n  version = {{{__version__}}}\n}}")
    block = fenced("\n\n".join(entries), "bibtex")
    if dataset:
        return Markdown(f"Cite the source of the data, which is not recorded here, and the software:\n\n{block}")
    return block
