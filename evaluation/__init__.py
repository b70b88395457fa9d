"""Measure maps of panoramas against ground truth. Uses neither ComfyUI nor FLUX; see `python -m evaluation --help`."""
