"""The one error of the converter."""


class AdapterError(ValueError):
    """What is wrong with an adapter file: `{file}: {key}: expected ..., got ...; what to do`."""
