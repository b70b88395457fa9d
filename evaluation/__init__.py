"""Measure maps of panoramas against ground truth. Knows neither ComfyUI nor FLUX; see `python -m evaluation --help`."""
