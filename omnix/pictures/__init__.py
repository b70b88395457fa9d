"""Panoramas and maps as pictures and files: read, fit, convert, draw, write. Nothing here knows FLUX or ComfyUI."""
