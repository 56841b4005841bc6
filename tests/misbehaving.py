"""A local HTTP server that speaks like an OpenAI-compatible endpoint, and misbehaves as it is told."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MARK = re.compile(r"\[request ([0-9a-f]{16})\]")


class Server:
    """Answers each request as `script(reply, nth)` says, where `nth` counts the requests about that reply from 0.

    The script gives a verdict, or (status, body, headers), or an Exception: `TimeoutError` to answer too late,
    `ConnectionError` to hang up, `InterruptedError` to trickle without end. A body may hold the mark of the request as
    MARK.
    """

    def __init__(self, script):
        self.script, self.seen, self.active, self.most = script, [], 0, 0
        self.lock, self.over = threading.Lock(), threading.Event()

    def times(self, reply):
        return sum(r["reply"] == reply for r in self.seen)

    def answer(self, handler):
        raw = handler.rfile.read(int(handler.headers["Content-Length"]))
        if not raw:  # the client has left
            return
        sent = json.loads(raw)
        shown = sent["messages"][1]["content"]
        mark = MARK.search(shown)[1]
        reply = shown.split(f"[reply {mark}]\n")[1].split(f"\n[end {mark}]")[0]
        with self.lock:
            nth = self.times(reply)
            self.seen.append({"reply": reply, "sent": sent, "headers": dict(handler.headers), "path": handler.path})
            self.active += 1
            self.most = max(self.most, self.active)
        try:
            self.say(handler, self.script(reply, nth), mark)
        finally:
            with self.lock:
                self.active -= 1

    def say(self, handler, what, mark):
        if isinstance(what, TimeoutError):
            self.over.wait(5)
            return
        if isinstance(what, ConnectionError):
            return
        if isinstance(what, InterruptedError):
            return self.trickle(handler)
        status, body, headers = what if isinstance(what, tuple) else (200, said(verdict_line(what)), {})
        raw = body.replace("MARK", mark).encode()
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(raw))} | headers).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(raw)

    def trickle(self, handler):
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not self.over.wait(0.02):
                handler.wfile.write(b" ")


def verdict_line(verdict):
    return json.dumps({"mark": "MARK", "verdict": verdict})


def said(content, **more):
    """A body as the endpoint gives it, whose message has this content."""
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}, **more}]})


@contextlib.contextmanager
def serving(script):
    """(server, base_url) while the block runs."""
    server = Server(script)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            server.answer(self)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        server.over.set()
        http.shutdown()
        http.server_close()
