"""OmniX: `runtime` samples with its streams, `pictures` reads and writes panoramas, `scene` makes a mesh of one."""
