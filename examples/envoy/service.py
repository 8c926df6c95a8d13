"""The service behind Envoy: it answers with the request as it arrived here.

    python3 service.py PORT [HOST]    by default on this machine alone
"""

import http.server
import json
import sys

SHOWN = ("authorization", "x-api-key")


class Shows(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        # What is sent must be read, or the next request on the connection begins in it.
        self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {
            name.lower(): value
            for name, value in self.headers.items()
            if name.lower() in SHOWN or "latchkey" in name.lower()
        }
        seen = {"method": self.command, "path": self.path, "headers": headers}
        body = json.dumps(seen, sort_keys=True).encode() + b"\n"
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    host = sys.argv[2] if len(sys.argv) == 3 else "127.0.0.1"
    with Server((host, int(sys.argv[1])), Shows) as server:
        server.serve_forever()
