"""Options that say how descriptions are encoded, and the encoding; `encode-descriptions` and `train` share them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm2rec_hf.data.dataset import RecDataset
    from vlm2rec_hf.data.encode_descriptions import DescriptionColumns
    from vlm2rec_hf.data.encoded_items import EncodedItems

LSA = "lsa"


@dataclass
class DescriptionArguments:
    """Which columns are encoded, and by what."""

    text_encoder: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a SentenceTransformer, or lsa: made from the texts, no download."},
    )
    text_encoder_revision: str | None = field(default=None, metadata={"help": "Its tag, branch or commit."})
    text_column: str = field(
        default="description_text", metadata={"help": "Item column with the text's description; '' leaves it out."}
    )
    image_column: str = field(
        default="description_image", metadata={"help": "With the picture's description; '' leaves it out."}
    )
    both_column: str = field(
        default="description_both", metadata={"help": "With the description of both; '' leaves it out."}
    )
    fine_column: str | None = field(
        default=None, metadata={"help": "With the original text, read by tokens; text, else title, by default."}
    )
    max_fine_tokens: int = field(default=64, metadata={"help": "Tokens kept of each original text."})
    lsa_dim: int = field(default=128, metadata={"help": "Length of the vectors of --text_encoder lsa."})
    encode_batch_size: int = field(default=32, metadata={"help": "Texts per forward pass of the text encoder."})

    def columns(self) -> DescriptionColumns:
        """The item columns."""
        from vlm2rec_hf.data.encode_descriptions import DescriptionColumns

        return DescriptionColumns(self.text_column, self.image_column, self.both_column, self.fine_column or None)

    def encode(self, dataset: RecDataset) -> EncodedItems:
        """Encode a dataset's descriptions now.

        Raises:
            ValueError: no encoder named, nothing loadable there, or columns that the dataset does not have.
        """
        from vlm2rec_hf.data.encode_descriptions import encode_descriptions

        columns = self.columns()
        texts = [text for kind in columns.read(dataset) for text in kind if text]
        encoder, model, revision = self._encoder(texts)
        return encode_descriptions(
            dataset,
            encoder,
            model=model,
            revision=revision,
            columns=columns,
            max_fine_tokens=self.max_fine_tokens,
            batch_size=self.encode_batch_size,
            show_progress=True,
        )

    def _encoder(self, texts: list[str]) -> tuple[Any, str, str]:
        """The encoder, its name and its version."""
        if not self.text_encoder:
            raise ValueError("`--text_encoder` is required: a SentenceTransformer's folder or Hub id, or lsa.")
        if self.text_encoder == LSA:
            from vlm2rec_hf.data.lsa_text_encoder import LSATextEncoder

            lsa = LSATextEncoder(texts, self.lsa_dim)
            return lsa, LSA, lsa.version
        from sentence_transformers import SentenceTransformer

        from vlm2rec_hf.cli.common import model_version

        try:
            version = model_version(self.text_encoder, self.text_encoder_revision)
            at = None if version.startswith("sha256:") else version
            return SentenceTransformer(self.text_encoder, revision=at), self.text_encoder, version
        except OSError as error:
            raise ValueError(
                f"`--text_encoder` {self.text_encoder!r} is neither a folder nor a model that the Hub has: {error}"
            ) from error
