"""Files of maps: the folders that rooms, training and evaluation share, public data sets, EXR and PNG."""
