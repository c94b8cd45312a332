"""Options that name a frozen text encoder, and its loading; DMESR and `train-head` share them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LSA = "lsa"


@dataclass
class TextEncoderArguments:
    """A frozen text encoder."""

    text_encoder: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a SentenceTransformer, or lsa: made from the texts, no download."},
    )
    text_encoder_revision: str | None = field(default=None, metadata={"help": "Its tag, branch or commit."})
    lsa_dim: int = field(default=128, metadata={"help": "Length of the vectors of --text_encoder lsa."})
    encode_batch_size: int = field(default=32, metadata={"help": "Texts per forward pass of the text encoder."})

    def load_text_encoder(self, texts: list[str]) -> tuple[Any, str, str]:
        """The encoder, its name and its version.

        Args:
            texts: what `lsa` is made from.

        Raises:
            ValueError: no encoder named, or nothing loadable there.
        """
        if not self.text_encoder:
            raise ValueError("`--text_encoder` is required: a SentenceTransformer's folder or Hub id, or lsa.")
        if self.text_encoder == LSA:
            from ..descriptions.lsa_text_encoder import LSATextEncoder

            lsa = LSATextEncoder(texts, self.lsa_dim)
            return lsa, LSA, lsa.version
        from sentence_transformers import SentenceTransformer

        from .common import model_version

        try:
            version = model_version(self.text_encoder, self.text_encoder_revision)
            at = None if version.startswith("sha256:") else version
            return SentenceTransformer(self.text_encoder, revision=at), self.text_encoder, version
        except OSError as error:
            raise ValueError(
                f"`--text_encoder` {self.text_encoder!r} is neither a folder nor a model that the Hub has: {error}"
            ) from error
