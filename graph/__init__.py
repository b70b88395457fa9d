"""The nodes by kind: what people see, and one call each. No tensor maths here.

Every input and output is described once, in its schema; `locales/` translates it, `web/docs/` explains it at length.
"""
