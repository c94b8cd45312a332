"""Histories that grow click by click: the keys and values of what was run are kept."""
