"""The module paths of the older package `daebus`, for programs that import from them."""
