"""Talking to the Hub: atomic commits, tags, errors in plain words, tokens out of sight. Imports nothing of ours."""
