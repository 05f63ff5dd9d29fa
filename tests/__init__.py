"""Tests: `unit` are values in, values out; `live` are real servers, sockets and processes."""
