"""Descriptions of items, written by a vision-language model, as columns of the dataset (DMESR, arXiv 2602.13715)."""
