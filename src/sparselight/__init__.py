"""sparselight: find, name, test and steer the features inside any PyTorch model with sparse autoencoders."""

__version__ = "0.1.0"
