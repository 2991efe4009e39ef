"""One site in three frameworks, for a grader: a page with a style sheet, a script and a form, and a session cookie as each framework sets
it. FRAMEWORK says which: flask, django or fastapi.
"""

import os

PAGE = """<!doctype html><html lang="en"><head><title>Site</title><link rel="stylesheet" href="/site.css">
<script src="/site.js" defer></script></head><body><h1>{framework}</h1><form method="post" action="/"><button>Go</button></form></body></html>"""
FILES = {"/site.css": ("text/css", "h1 { color: teal }"), "/site.js": ("text/javascript", "document.title += '!'")}
FRAMEWORK = os.environ["FRAMEWORK"]
BODY = PAGE.format(framework=FRAMEWORK)


def flask():
    from flask import Flask, Response, session

    app = Flask(__name__)
    app.secret_key = "for a grader alone"

    @app.get("/")
    def index():
        session["seen"] = True
        return BODY

    for path, (kind, text) in FILES.items():
        app.add_url_rule(path, path, lambda kind=kind, text=text: Response(text, mimetype=kind))
    return app


def django():
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.middleware.csrf import get_token
    from django.urls import path

    sessions = "django.contrib.sessions."
    settings.configure(
        SECRET_KEY="for a grader alone",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        SESSION_ENGINE=f"{sessions}backends.signed_cookies",
        # What startproject writes.
        MIDDLEWARE=[
            "django.middleware.security.SecurityMiddleware",
            f"{sessions}middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.middleware.clickjacking.XFrameOptionsMiddleware",
        ],
    )

    def index(request):
        request.session["seen"] = True
        get_token(request)
        return HttpResponse(BODY)

    def file(kind, text):
        return lambda request: HttpResponse(text, content_type=kind)

    global urlpatterns
    urlpatterns = [path("", index), *(path(name[1:], file(*what)) for name, what in FILES.items())]
    return get_wsgi_application()


def fastapi():
    from fastapi import FastAPI
    from fastapi.responses import HTMLResponse, Response

    app = FastAPI()

    @app.get("/")
    def index():
        response = HTMLResponse(BODY)
        response.set_cookie("session", "seen", httponly=True)
        return response

    for path, (kind, text) in FILES.items():
        app.add_api_route(path, lambda kind=kind, text=text: Response(text, media_type=kind), include_in_schema=False)
    return app


app = {"flask": flask, "django": django, "fastapi": fastapi}[FRAMEWORK]()
