"""What is saved on the Hub. Flat files with sibling imports only: they are copied into model repos as remote code."""
