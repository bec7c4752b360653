"""The data formats: one module each, with an object `FORMAT`. Adding a module adds a format.

The value of data.format is the module's name with `-` instead of `_`.
"""
