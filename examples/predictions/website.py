"""The site of the predictions: a Django project in one file. It has no database here; the real one has."""

import os
import secrets

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import path
from django.utils.html import escape
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_GET, require_http_methods

settings.configure(
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY") or secrets.token_urlsafe(48),
    ALLOWED_HOSTS=os.environ.get("DJANGO_ALLOWED_HOSTS", "predictions.example.com,localhost").split(","),
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    SESSION_COOKIE_SECURE=True,
    CSRF_COOKIE_SECURE=True,
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
)
django.setup()

PAGE = """<!doctype html>
<html lang="en">
<title>Football predictions</title>
<h1>Football predictions</h1>
<p>{greeting}</p>
<p><a href="/account">Your account</a></p>
</html>
"""


@require_GET
def index(request):
    team = request.session.get("team")
    return HttpResponse(PAGE.format(greeting=f"You follow {escape(team)}." if team else "Follow a team to begin."))


@ensure_csrf_cookie
@require_http_methods(["GET", "POST"])
def account(request):
    if request.method == "POST":
        request.session["team"] = request.POST.get("team", "")[:40]
        return redirect("/")
    return HttpResponse(f"{request.scheme}://{request.get_host()}{request.path}\n", content_type="text/plain")


@require_GET
def healthz(request):
    return HttpResponse("ok\n", content_type="text/plain")


urlpatterns = [
    path("", index),
    path("account", account),
    path("healthz", healthz),
]

application = get_wsgi_application()
