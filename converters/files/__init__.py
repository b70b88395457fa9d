"""Bytes: headers, matrices and hashes read from files, files written whole. Knows nothing of LoRA."""
