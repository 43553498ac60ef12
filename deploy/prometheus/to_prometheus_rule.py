#!/usr/bin/env python3
"""Writes rules.yaml as the PrometheusRule object of the Prometheus operator.

Comments and layout stay: the rule file is indented and put under a head.
"""

import pathlib

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE.parent / "kubernetes" / "overlays" / "monitoring" / "prometheusrule.yaml"
HEAD = """\
# Made from deploy/prometheus/rules.yaml by deploy/prometheus/to_prometheus_rule.py.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tandem
  labels:
    app.kubernetes.io/name: tandem
    release: kube-prometheus-stack
spec:
"""


def prometheus_rule():
    lines = (HERE / "rules.yaml").read_text().splitlines()
    rules = lines[lines.index("groups:"):]
    return HEAD + "".join(f"  {line}\n" if line else "\n" for line in rules)


if __name__ == "__main__":
    TARGET.write_text(prometheus_rule())
