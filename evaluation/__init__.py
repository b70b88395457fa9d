"""Measure maps of panoramas against the truth. Knows neither ComfyUI nor FLUX; `python -m evaluation --help`."""
