"""What an adapter is: names, layers, scales, and the plan of one file. Reads headers and alphas alone."""
