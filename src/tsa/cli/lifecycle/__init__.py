"""Commands on the life of a model after the first: `tsa retrain`."""
