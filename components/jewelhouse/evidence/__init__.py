"""Attestation evidence: parsed, and verified to a pinned root at a chosen time. A module for each format."""
