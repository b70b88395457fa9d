VERSION = "0.1.0"
"""The version of the converter, written into every file it makes."""
