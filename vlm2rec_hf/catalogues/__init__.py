"""Items made ready once: prepared catalogues, the frozen-vision cache, item vectors."""
