"""Asks a service so many times for a call of one bucket, by both protocols, and prints what it was
told as JSON."""

import http.client
import json
import sys
import time
from urllib.parse import urlencode, urlsplit

url, token, key, burst, times = sys.argv[1:]
place = urlsplit(url)
connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
headers = {"Authorization": f"Bearer {token}"}
query = urlencode(
    {
        "key": f"{key}-choked",
        "request_capacity": burst,
        "request_refill_rate": int(burst) / 3e6,
        "requests_needed": 1,
    }
)
body = json.dumps({"key": f"{key}-api", "quota": f"{burst}/30d"})
admitted = {"choked": 0, "api": 0}
back_at = 0.0
for _ in range(int(times)):
    connection.request("GET", f"/choked/acquire?{query}", headers=headers)
    response = connection.getresponse()
    response.read()
    assert response.status in (200, 429)
    if response.status == 200:
        admitted["choked"] += 1
    else:
        back_at = time.monotonic() + int(response.headers["Retry-After-Ms"]) / 1000
    connection.request("POST", "/v1/limit", body, headers)
    response = connection.getresponse()
    assert response.status == 200
    admitted["api"] += not json.load(response)["limited"]
print(json.dumps({**admitted, "back_at": back_at}))
