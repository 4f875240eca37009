"""One module a paper row; `python -m experiments` lists them."""
