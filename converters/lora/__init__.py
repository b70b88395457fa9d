"""Understand an adapter: names, layers, scales, and the plan of one file. Reads only headers and alphas."""
