"""Artifacts sealed with public keys alone: segment stream, signed manifest, stores."""
