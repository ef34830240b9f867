"""The dashboards: `python -m deploy.grafana` writes `dashboards/*.json`, one module each, panels.py the vocabulary.

Every expression is about one machine (`$machine`, a label that prometheus.yml gives) and is evaluated against a real
Prometheus by tests/prometheus/.
"""
