"""Event streams as Flask, Django and Starlette make them, in step with the reader: each event waits for the one before.

/events       three events; the next is made once there is a file $STEP_DIR/NUMBER for the one before it
anything else "ok"
"""

import asyncio
import os
import time

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path, re_path
from flask import Flask, Response
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

COUNT = 3
PATIENCE = 10.0


def is_read(number):
    return os.path.exists(os.path.join(os.environ["STEP_DIR"], str(number)))


def events():
    for number in range(COUNT):
        yield f"data: {number}\n\n"
        end = time.monotonic() + PATIENCE
        while not is_read(number) and time.monotonic() < end:
            time.sleep(0.005)


async def async_events():
    for number in range(COUNT):
        yield f"data: {number}\n\n"
        end = time.monotonic() + PATIENCE
        while not is_read(number) and time.monotonic() < end:
            await asyncio.sleep(0.005)


flask = Flask(__name__)


@flask.get("/events")
def flask_events():
    return Response(events(), mimetype="text/event-stream")


@flask.get("/<path:any>")
def flask_other(any):
    return "ok"


settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="for tests alone")
django.setup()
urlpatterns = [
    path("events", lambda request: StreamingHttpResponse(events(), content_type="text/event-stream")),
    re_path("", lambda request: HttpResponse("ok")),
]
django_app = WSGIHandler()


async def starlette_events(request):
    return StreamingResponse(async_events(), media_type="text/event-stream")


async def starlette_other(request):
    return PlainTextResponse("ok")


starlette = Starlette(routes=[Route("/events", starlette_events), Route("/{any:path}", starlette_other)])
