"""vtabjax: which pre-trained vision model transfers best to a small data set, measured in JAX."""

__version__ = "0.1.0"
