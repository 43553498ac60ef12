"""What /metrics says beside single numbers: histograms, and that nothing is left."""

import re

from conftest import eventually


def histogram(text, name):
    """Count, sum and the cumulative counts by upper bound, over all series of `name`."""
    count, total, buckets = 0, 0.0, {}
    for line in text.splitlines():
        match = re.fullmatch(re.escape(name) + r"_(count|sum|bucket)\{(.*)\} (\S+)", line)
        if not match:
            continue
        if match[1] == "count":
            count += int(float(match[3]))
        elif match[1] == "sum":
            total += float(match[3])
        else:
            bound = float(re.search(r'le="([^"]+)"', match[2])[1])
            buckets[bound] = buckets.get(bound, 0) + int(float(match[3]))
    return count, total, buckets


def quantile_bound(buckets, count, q):
    """The smallest bucket bound below which a share `q` of the observations lies."""
    return min((bound for bound, below in buckets.items() if below >= q * count), default=0.0)


def left_over(server):
    """Sequences running, sequences waiting and blocks used once things have settled."""
    eventually(server.idle)
    return tuple(int(server.metric(name, **labels)) for name, labels in (
        ("vllm:num_requests_running", {}), ("vllm:num_requests_waiting", {}),
        ("tandem_kv_blocks", {"state": "used"})))
