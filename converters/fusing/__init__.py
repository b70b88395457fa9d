"""Turn a plan into a result: the tensors, and the bytes and arithmetic that fill them."""
