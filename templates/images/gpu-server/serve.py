"""Serves predictions of weights that nobody outside can read.

Opens weights (`weights.npz`: w, b) and, where there is one, an adapter (`adapter.npz`: delta_w, delta_b).
POST /predict with {"inputs": [[...], ...]} answers {"predictions": [...]}: probabilities.
"""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

LIMIT = 1024 * 1024


def main() -> None:
    w, b = load(Path(os.environ["JEWELHOUSE_OPENED"]))
    address = (os.environ.get("LISTEN", "0.0.0.0"), int(os.environ.get("PORT", "8080")))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200 if self.path == "/health" else 404, {"ready": self.path == "/health"})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.path != "/predict" or not 0 < length <= LIMIT:
                wrong = 404 if self.path != "/predict" else 413
                self.answer(wrong, {"error": "POST /predict, at most 1 MiB"})
                return
            try:
                inputs = np.asarray(json.loads(self.rfile.read(length))["inputs"], dtype=float)
                found = 1 / (1 + np.exp(-(inputs @ w + b)))
            except (ValueError, KeyError, TypeError) as error:
                said = f"inputs must be rows of {len(w)} numbers: {type(error).__name__}"
                self.answer(400, {"error": said})
                return
            self.answer(200, {"predictions": found.tolist()})

        def answer(self, status: int, value: dict) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Requests are the users' own: none is written down."""

    server = ThreadingHTTPServer(address, Handler)
    print(f"serving on port {server.server_address[1]}", flush=True)
    server.serve_forever()


def load(opened: Path):
    (base,) = opened.glob("*/weights.npz")
    with np.load(base) as weights:
        w, b = weights["w"], float(weights["b"])
    for path in opened.glob("*/adapter.npz"):
        with np.load(path) as adapter:
            w, b = w + adapter["delta_w"], b + float(adapter["delta_b"])
    return w, b


if __name__ == "__main__":
    main()
