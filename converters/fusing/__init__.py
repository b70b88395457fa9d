"""What becomes of a plan: the tensors of the result, and the bytes and arithmetic that fill them."""
