"""The command `vlm2rec`: one thin file per sub-command."""
