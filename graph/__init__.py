"""The nodes by kind: each declares what people see and makes one call. No tensor maths here.

Every input and output is described once, in its schema; `locales/` translates it and `web/docs/` explains it.
"""
