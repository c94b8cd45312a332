"""A pair of files per method: `x_args.py` (a `TrainingArguments` subclass) and `x_trainer.py`."""
