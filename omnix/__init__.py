"""The OmniX runtime: streams, panorama geometry and maps. Only `patch.py` knows ComfyUI."""
