"""A folder behind a web server with the latency and the rate of a bucket: each request takes latency + bytes / rate.

In: a folder. Out: a server that reads like S3 (path style), its pace set and its requests and bytes counted at run
time. nginx with Lua where it is installed (Debian: nginx-light, libnginx-mod-http-lua), which serves far faster than
the pace it is held to; else the test's own servers in Python, which on few processors slow the client down too.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

MODULES = Path("/usr/lib/nginx/modules")
CONFIG = """
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
worker_processes 1;
daemon off;
pid {state}/pid;
error_log {state}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000;
  sendfile on;
  tcp_nopush on;
  client_body_temp_path {state};  proxy_temp_path {state};  fastcgi_temp_path {state};
  uwsgi_temp_path {state};  scgi_temp_path {state};
  lua_shared_dict pace 1m;
  server {{
    listen 127.0.0.1:{port};
    root {folder};
    location = /__pace {{ content_by_lua_block {{
      local pace, args = ngx.shared.pace, ngx.req.get_uri_args()
      pace:set("latency", tonumber(args.latency)); pace:set("rate", tonumber(args.rate))
      pace:set("requests", 0); pace:set("bytes", 0)
      ngx.say("ok")
    }} }}
    location = /__seen {{ content_by_lua_block {{
      local pace = ngx.shared.pace
      ngx.say((pace:get("requests") or 0) .. " " .. (pace:get("bytes") or 0))
    }} }}
    location / {{
      access_by_lua_block {{
        if ngx.var.arg_list_type or ngx.var["arg_list-type"] then
          ngx.header.content_type = "application/xml"
          ngx.say("<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>")
          return ngx.exit(200)
        end
        local pace, size = ngx.shared.pace, 0
        local file = ngx.req.get_method() == "GET" and io.open(ngx.var.document_root .. ngx.var.uri, "rb")
        if file then
          size = file:seek("end") or 0
          file:close()
          local first, last = string.match(ngx.var.http_range or "", "bytes=(%d*)%-(%d*)")
          if first == "" then size = math.min(size, tonumber(last))
          elseif first then size = math.min(size, (tonumber(last) or size - 1) + 1) - tonumber(first) end
          pace:incr("requests", 1, 0)
          pace:incr("bytes", size, 0)
        end
        ngx.sleep((pace:get("latency") or 0) + size / (pace:get("rate") or 1e12))
      }}
    }}
  }}
}}
"""


def nginx() -> str | None:
    """Return the program, where it and its Lua module are installed."""
    return shutil.which("nginx") if (MODULES / "ngx_http_lua_module.so").exists() else None


@dataclass
class Nginx:
    folder: Path
    state: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> Nginx:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = self.state / "nginx.conf"
        config.write_text(
            CONFIG.format(modules=MODULES, state=self.state, folder=self.folder, port=self.port)
        )
        user = ["-g", "user root;"]
        self.process = subprocess.Popen(
            [nginx() or "nginx", "-c", str(config), *user], stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                self.pace()
                return self
            except OSError:
                assert self.process.poll() is None, (self.state / "error.log").read_text()
                time.sleep(0.02)
        raise TimeoutError("nginx did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:
            return answer.read().decode()

    def pace(self, latency: float = 0.0, rate: float = 1e12) -> None:
        """Set seconds before an answer and bytes a second of each; counting begins anew."""
        self._get(f"/__pace?latency={latency}&rate={rate}")

    def seen(self) -> tuple[int, int]:
        """Return requests for objects that are there, and their bytes."""
        requests, sent = self._get("/__seen").split()
        return int(requests), int(sent)
