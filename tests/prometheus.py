"""A strict reader of the text in which Prometheus wants metrics."""

from __future__ import annotations

import re

_SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"')
_UNESCAPED = {r"\\": "\\", r"\n": "\n", r"\"": '"'}


class Parsed:
    """A strict reader of the text format: each family once, its HELP and TYPE before its samples, no sample twice."""

    def __init__(self, text: bytes) -> None:
        self.types: dict[str, str] = {}
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        lines = text.decode("utf-8").split("\n")
        assert lines.pop() == ""
        helped = ""
        for line in lines:
            if line.startswith("# HELP "):
                helped, words = line[7:].split(" ", 1)
                assert words
                assert helped not in self.types
            elif line.startswith("# TYPE "):
                name, kind = line[7:].split(" ")
                assert name == helped
                assert kind in ("counter", "gauge", "histogram")
                assert (kind == "counter") == name.endswith("_total")
                self.types[name] = kind
            else:
                self._sample(line, helped)
        self._check_histograms()

    def _sample(self, line: str, family: str) -> None:
        match = _SAMPLE.fullmatch(line)
        assert match is not None, line
        name, inner, value = match.groups()
        suffixes = ("_bucket", "_sum", "_count") if self.types[family] == "histogram" else ("",)
        assert name in [f"{family}{suffix}" for suffix in suffixes]
        labels = [
            (key, re.sub(r"\\.", lambda found: _UNESCAPED[found[0]], text)) for key, text in _LABEL.findall(inner or "")
        ]
        assert len(dict(labels)) == len(labels)
        key = name, frozenset(labels)
        assert key not in self.samples
        self.samples[key] = float(value)

    def _check_histograms(self) -> None:
        for (name, labels), value in self.samples.items():
            family = name.removesuffix("_count")
            if self.types.get(family) != "histogram" or name == family:
                continue
            buckets = sorted(
                (float(dict(others)["le"]), count)
                for (bucket, others), count in self.samples.items()
                if bucket == f"{family}_bucket" and labels < others
            )
            assert [count for _le, count in buckets] == sorted(count for _le, count in buckets)
            assert buckets[-1] == (float("inf"), value)
            assert (f"{family}_sum", labels) in self.samples

    def of(self, name: str, /, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]
