"""Options that say how descriptions are encoded, and the encoding; `encode-descriptions` and `train` share them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .arguments import TextEncoderArguments, check_at_least

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..descriptions.encoded_items import EncodedItems
    from ..descriptions.encoding import DescriptionColumns


@dataclass
class DescriptionArguments(TextEncoderArguments):
    """Which columns are encoded, and by what."""

    _argument_group_name = "descriptions"

    text_column: str = field(
        default="description_text", metadata={"help": "Item column with the text's description; '' leaves it out."}
    )
    image_column: str = field(
        default="description_image", metadata={"help": "With the image's description; '' leaves it out."}
    )
    both_column: str = field(
        default="description_both", metadata={"help": "With the description of both; '' leaves it out."}
    )
    fine_column: str | None = field(
        default=None, metadata={"help": "With the original text, read by tokens; text, else title, by default."}
    )
    max_fine_tokens: int = field(default=64, metadata={"help": "Tokens kept of each original text."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "max_fine_tokens")

    def columns(self) -> DescriptionColumns:
        """The item columns."""
        from ..descriptions.encoding import DescriptionColumns

        return DescriptionColumns(self.text_column, self.image_column, self.both_column, self.fine_column or None)

    def encode(self, dataset: RecDataset) -> EncodedItems:
        """Encode a dataset's descriptions now.

        Raises:
            ValueError: no encoder named, nothing loadable there, or columns that the dataset does not have.
        """
        from ..descriptions.encoding import encode_descriptions
        from ..descriptions.text_encoders import load_text_encoder

        columns = self.columns()
        texts = [text for kind in columns.read(dataset) for text in kind if text]
        if not self.text_encoder:
            raise ValueError("`--text_encoder` is required: a SentenceTransformer's folder or Hub id, or lsa.")
        encoder, version = load_text_encoder(
            self.text_encoder, texts, revision=self.text_encoder_revision, lsa_dim=self.lsa_dim
        )
        return encode_descriptions(
            dataset,
            encoder,
            model=self.text_encoder,
            revision=version,
            columns=columns,
            max_fine_tokens=self.max_fine_tokens,
            batch_size=self.encode_batch_size,
            show_progress=True,
        )
