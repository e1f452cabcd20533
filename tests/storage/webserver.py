"""A web server whose answers a test makes, with the headers that it was sent."""

import functools
import http.server
import threading


class Web:
    """A web server that redirects or ignores ranges, and keeps the headers it was sent."""

    def __init__(self, answer):
        web = self
        self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                if self.command == "GET":
                    web.seen.append(
                        (self.path, {name.lower(): value for name, value in self.headers.items()})
                    )
                status, headers, body = answer(self.path)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": len(body)}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 the name that the base class looks for

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        serve = functools.partial(self.server.serve_forever, poll_interval=0.01)
        threading.Thread(target=serve, name="ThreadPoolExecutor-web", daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
