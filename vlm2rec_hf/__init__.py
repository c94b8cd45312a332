"""Turn a vision-language model into a multimodal sequential recommender."""

__version__ = "0.1.0.dev0"
