"""Work on whole catalogues in shards: resumable, by several processes or machines, every row exactly once."""
