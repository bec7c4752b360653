"""Commands and screens of extensions; `engine/extensions/__init__.py` lists them."""
