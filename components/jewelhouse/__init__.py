"""The strongroom for model weights: confidential training, fine-tuning and inference as infrastructure."""

__version__ = "0.1.0"
