"""Small random models built from config, without any download."""
