"""A recommender behind HTTP: `vlm2rec serve`. The modules need the extra `serve`, but for `settings` and `running`."""
