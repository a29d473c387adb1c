"""Reads metrics with Prometheus' own library for Python, and prints them as JSON.

    metrics.py text|openmetrics < METRICS

Prints {FAMILY: {"type": ..., "help": ..., "samples": [[NAME, {LABEL: VALUE}, NUMBER], ...]}}. The reader of
OpenMetrics is strict; what the one of the older format lets pass is looked for here.
"""

import json
import sys

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client import parser as text


def main():
    body = sys.stdin.read()
    read = {"text": text, "openmetrics": openmetrics}[sys.argv[1]].text_string_to_metric_families
    families = {}
    seen = set()
    for family in read(body):
        if family.name in families:
            sys.exit(f"{family.name} comes twice")
        if family.type == "unknown" or not family.documentation:
            sys.exit(f"{family.name} has no type or no help")
        samples = []
        for sample in family.samples:
            series = (sample.name, tuple(sorted(sample.labels.items())))
            if series in seen:
                sys.exit(f"{series} comes twice")
            seen.add(series)
            samples.append([sample.name, sample.labels, sample.value])
        families[family.name] = {
            "type": family.type,
            "help": family.documentation,
            "samples": samples,
        }
    json.dump(families, sys.stdout)


main()
