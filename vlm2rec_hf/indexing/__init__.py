"""Item vectors on disk with what a shop knows of the items: searched exactly or approximately, changed by id."""
