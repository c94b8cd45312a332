"""The public names of `vlm2rec_hf.descriptions`, each written once."""

from .describe import describe_items as describe_items
from .describer import Writing as Writing
from .describer import load_describer as load_describer
from .encoded_items import EncodedItems as EncodedItems
from .encoding import DescriptionColumns as DescriptionColumns
from .encoding import encode_descriptions as encode_descriptions
from .lsa_text_encoder import LSATextEncoder as LSATextEncoder
from .prompts import load_prompts as load_prompts
from .text_encoders import embed_texts as embed_texts
from .text_encoders import load_text_encoder as load_text_encoder
