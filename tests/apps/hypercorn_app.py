"""asgi.py as Hypercorn wants an app behind a gateway to be wrapped: it believes forwarding fields no other way."""

from hypercorn.middleware import ProxyFixMiddleware

from asgi import app as plain

app = ProxyFixMiddleware(plain, mode="legacy", trusted_hops=1)
