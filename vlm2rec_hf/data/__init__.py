"""Interactions and items in: readers, validation, k-core, splits, histories, safe images, the demo shop."""
