"""The rows of an aiperf run that are kept: aiperf_rows.py PROFILE.json. Failed requests are an error."""

import json
import sys

profile = json.load(open(sys.argv[1]))
errors = (profile.get("error_request_count") or {}).get("avg", 0)
count = profile["request_count"]["avg"]
assert errors == 0, f"{errors} requests failed"
first, gap = profile["time_to_first_token"], profile["inter_token_latency"]
print(f"aiperf 0.13.0: {count:.0f} streamed chats, none failed: yes; first token {first['p50']:.1f} ms at the median, "
      f"{first['p99']:.1f} ms at p99; between tokens {gap['p50']:.2f} ms")
