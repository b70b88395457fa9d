"""Run FLUX.1 with OmniX's streams, and any model with a seam that meets. Three files know ComfyUI: see `patch`."""
