"""An HTTP/1.1 client over one asyncio connection: enough to tell a whole answer from a failed one, and no more.

It retries nothing: a broken connection is the caller's to count. Framing as in RFC 9112, section 6.3.
"""

import asyncio


class Broken(Exception):
    """No whole answer came; the text says in a word or two what came instead."""


class Connection:
    """Kept alive between requests when the server lets it; opened anew when there is none."""

    def __init__(self, port):
        self.port = port
        self.reader = self.writer = None

    async def ask(self, method, target, body=b"", within=30):
        """The status and the body of the answer; raises Broken."""
        try:
            async with asyncio.timeout(within):
                if self.writer is None:
                    self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
                self.writer.write(request_head(method, target, len(body)) + body)
                return await self.answer()
        except TimeoutError:
            self.close()
            raise Broken(f"no answer in {within} s") from None
        except (OSError, EOFError, ValueError, IndexError) as error:
            self.close()
            raise Broken(type(error).__name__) from None
        except asyncio.CancelledError:
            self.close()
            raise

    async def answer(self):
        status, fields = await self.head()
        while status < 200:
            status, fields = await self.head()
        body, ends = await self.body(status, fields)
        if ends or b"close" in fields.get(b"connection", b"").lower():
            self.close()
        return status, body

    async def head(self):
        try:
            lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        except asyncio.LimitOverrunError:
            raise ValueError("the head is too long") from None
        pairs = (line.partition(b":") for line in lines[1:-2])
        return int(lines[0].split(b" ")[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}

    async def body(self, status, fields):
        """The body, and whether it was the end of the connection that ended it."""
        if status in (204, 304):
            return b"", False
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            return await self.chunks(), False
        if b"content-length" in fields:
            return await self.reader.readexactly(int(fields[b"content-length"])), False
        return await self.reader.read(), True

    async def chunks(self):
        body = b""
        while size := int((await self.reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        while await self.reader.readuntil(b"\r\n") != b"\r\n":
            pass
        return body

    def close(self):
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None


def request_head(method, target, length):
    framing = f"Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n" if method == "POST" else ""
    return f"{method} {target} HTTP/1.1\r\nHost: bench.test\r\n{framing}\r\n".encode()
