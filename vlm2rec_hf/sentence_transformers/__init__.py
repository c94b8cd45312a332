"""Files, losses and data for users of the sentence-transformers library."""
