"""A proxy in front of an HTTP server that delays, throttles and breaks answers by request number.

In: a script, ``{number: fault}`` or a function of (number, method, path, headers). Out: broken answers, and a log of
requests and bytes. Faults: ``503`` (any status), ``reset``, ``close``, ``stall``, ``truncate:N`` (N bytes of the body,
then closed), ``corrupt:N`` (byte N of the body is flipped), ``late:N`` (answered after N seconds), ``trickle:N`` (N
bytes of the body a second), ``hold`` (answered after `FaultProxy.release`; ``hold+503``: with a fault),
``redirect:URL`` (307 to the same path below URL; a path below ``/moved`` is answered as the one without), ``whole``
(``Range`` is ignored), ``down:N`` (the server dies, and is back after N seconds). Requests are counted from 0 since
`FaultProxy.clear`.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from dataclasses import dataclass, field


@dataclass
class Entry:
    method: str
    path: str
    range: str | None
    fault: str | None
    headers: dict[str, str] = field(default_factory=dict)
    sent: int = 0


@dataclass
class FaultProxy:
    upstream: tuple[str, int]
    script: object = field(default_factory=dict)
    latency: float = 0.0  # seconds before each answer
    rate: float = 0.0  # bytes a second of each answer; 0: as fast as it goes
    line: float = 0.0  # bytes a second of all answers together, sent as they come; 0: as fast as it goes
    piece: int = 64 << 10  # bytes that an answer sends at a time over the shared line
    log: list[Entry] = field(default_factory=list)
    in_flight: int = 0  # since the last clear: what an earlier test left stalled does not count
    age: int = 0
    most_in_flight: int = 0
    owed: int = 0  # answers that are late or held
    kept: dict | None = (
        None  # answers of a server whose objects never change, by what was asked: it is asked once
    )

    def start(self) -> FaultProxy:
        ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.connections: set[asyncio.StreamWriter] = set()
        self.port = 0

        def run() -> None:
            asyncio.set_event_loop(self.loop)
            self.stalled, self.held = asyncio.Event(), asyncio.Event()
            self.sending = asyncio.Lock()
            self.loop.run_until_complete(self._listen())
            ready.set()
            self.loop.run_forever()
            self.loop.close()

        self.thread = threading.Thread(target=run, name="faultproxy", daemon=True)
        self.thread.start()
        ready.wait()
        return self

    def stop(self) -> None:
        async def end() -> None:
            self.server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)  # in which their connections end
            self.loop.call_soon(self.loop.stop)

        asyncio.run_coroutine_threadsafe(end(), self.loop)
        self.thread.join(timeout=10)

    async def _listen(self) -> None:
        self.server = await asyncio.start_server(self._client, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def _die(self, seconds: float) -> None:
        """Drop all connections and refuse new ones, for a while."""
        for listening in self.server.sockets:
            self.loop.remove_reader(listening.fileno())
        await asyncio.sleep(0)  # asyncio loses connections whose server is closed while it accepts them
        self.server.close()
        for writer in list(self.connections):
            writer.transport.abort()
        self.loop.call_later(
            seconds, lambda: self.server.is_serving() or self.loop.create_task(self._listen())
        )

    def revive(self) -> None:
        """Listen again at the same port, after ``down``."""
        asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def clear(
        self, script: object = None, *, latency: float = 0.0, rate: float = 0.0, line: float = 0.0
    ) -> None:
        self.script, self.latency, self.rate = ({} if script is None else script), latency, rate
        self.line = line
        self.log, self.most_in_flight, self.in_flight = [], 0, 0
        self.age += 1
        self.loop.call_soon_threadsafe(self._end_stalls)

    def _end_stalls(self) -> None:
        """Drop connections that are stalled: those of clients that are gone would count as in flight for ever."""
        self.stalled.set()
        self.stalled, self.held = asyncio.Event(), asyncio.Event()

    def release(self) -> None:
        """Answer all requests that are held, and those that come later."""
        self.loop.call_soon_threadsafe(lambda: self.held.set())

    def settle(self) -> None:
        """Wait until all that clients had sent before has been looked at: a request of our own comes after it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(b"HEAD /__settle HTTP/1.1\r\n\r\n")
            connection.recv(1)

    @property
    def sent(self) -> int:
        return sum(entry.sent for entry in self.log)

    def _fault(self, method: str, path: str, headers: dict[str, str]) -> tuple[Entry, str | None]:
        number = len(self.log)
        fault = (
            self.script(number, method, path, headers) if callable(self.script) else self.script.get(number)
        )
        entry = Entry(method, path, headers.get("range"), fault, headers)
        self.log.append(entry)
        return entry, fault

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        try:
            while await self._request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.connections.discard(writer)
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
        }
        if path == "/__settle":
            writer.write(b"HTTP/1.1 204 Settled\r\n\r\n")
            await writer.drain()
            return False
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        entry, fault = self._fault(method, path, headers)
        head = head.replace(b" /moved/", b" /", 1)
        age = self.age
        self.in_flight += 1
        self.owed += (owed := (fault or "").startswith(("late", "hold")))
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._answer(entry, fault, head, body, writer)
        finally:
            self.in_flight -= age == self.age
            self.owed -= owed

    async def _answer(
        self, entry: Entry, fault: str | None, head: bytes, body: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        if self.latency:
            await asyncio.sleep(self.latency)
        if fault and fault.startswith("hold"):
            await self.held.wait()
            fault = fault.removeprefix("hold").removeprefix("+")
        if fault == "stall":
            await self.stalled.wait()
            writer.transport.abort()
            return False
        if fault in ("reset", "close"):
            if fault == "reset":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort() if fault == "reset" else writer.close()
            return False
        if fault and fault.isdigit():
            said = "".join(f"<Header>{name}: {value}</Header>" for name, value in entry.headers.items())
            text = f"<Error><Code>Injected</Code><Resource>{entry.path}</Resource>{said}</Error>".encode()
            writer.write(
                b"HTTP/1.1 %s Injected\r\nContent-Length: %d\r\n\r\n%s" % (fault.encode(), len(text), text)
            )
            await writer.drain()
            return True
        kind, _, where = (fault or "").partition(":")
        if kind == "down":
            await self._die(float(where))
            return False
        if kind == "redirect":
            to = f"{where}{entry.path}".encode()
            writer.write(b"HTTP/1.1 307 Elsewhere\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % to)
            await writer.drain()
            return True
        if kind == "whole":
            head = re.sub(rb"\r\nrange:[^\r]*", b"", head, flags=re.IGNORECASE)
        if kind == "late":
            await asyncio.sleep(float(where))
        answer_head, answer = await self._upstream(head, body, entry.method)
        if kind == "corrupt" and answer:
            flipped = bytearray(answer)
            flipped[int(where)] ^= 0x55
            answer = bytes(flipped)
        whole, answer = answer, (answer[: int(where)] if kind == "truncate" else answer)
        if self.rate:
            await asyncio.sleep(len(answer) / self.rate)
        if kind == "trickle" or self.line:
            await self._send_slowly(entry, answer_head, answer, writer, int(where) if where else 0)
            return True
        entry.sent += len(answer)
        writer.write(answer_head + answer)
        await writer.drain()
        return len(whole) == len(answer)

    async def _send_slowly(
        self, entry: Entry, head: bytes, answer: bytes, writer: asyncio.StreamWriter, trickle: int
    ) -> None:
        """Send the body in pieces: at a rate of its own, or in turn with others over the shared line."""
        writer.write(head)
        size = trickle or self.piece
        for at in range(0, len(answer), size):
            piece = answer[at : at + size]
            if trickle:
                await asyncio.sleep(1)
            else:
                async with self.sending:  # waiters take turns
                    await asyncio.sleep(len(piece) / self.line)
            entry.sent += len(piece)
            writer.write(piece)
            await writer.drain()

    async def _upstream(self, head: bytes, body: bytes, method: str) -> tuple[bytes, bytes]:
        if self.kept is None or method not in ("GET", "HEAD"):
            return await self._ask(head, body, method)
        first, *lines = head.split(b"\r\n")
        asked = (first, *sorted(line for line in lines if line.lower().startswith((b"range:", b"if-"))))
        if asked not in self.kept:
            self.kept[asked] = await self._ask(head, body, method)
        return self.kept[asked]

    async def _ask(self, head: bytes, body: bytes, method: str) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            writer.write(head + body)
            answer_head = await reader.readuntil(b"\r\n\r\n")
            lines = answer_head.decode("latin-1").lower().split("\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
            status = int(lines[0].split(" ")[1])
            empty = method == "HEAD" or status in (204, 304)
            return answer_head, b"" if empty else await reader.readexactly(length)
        finally:
            writer.close()
