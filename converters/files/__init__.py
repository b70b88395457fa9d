"""Read headers, matrices and hashes from files, and write complete files. Nothing here is specific to LoRA."""
