"""A whole Django project in one file behind Propylon: settings, views, URLs and the WSGI application. It needs no database."""

import hashlib
import os
import secrets
import time

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

settings.configure(
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY") or secrets.token_urlsafe(48),
    ALLOWED_HOSTS=os.environ.get("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(","),
    # Propylon sends X-Forwarded-Proto itself and deletes a client's, so Django may believe it.
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    # Where the gateway mounts the app below a path (strip_prefix), Django must know the path to build its links.
    FORCE_SCRIPT_NAME=os.environ.get("DJANGO_SCRIPT_NAME") or None,
    MIDDLEWARE=[
        f"{__name__}.client_address",
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
)
django.setup()

SLOWEST_SECONDS = 60.0
BIGGEST_BYTES = 1 << 30
BLOCK = b"x" * 65536


def client_address(get_response):
    """Puts the client's address into REMOTE_ADDR, where Gunicorn leaves the gateway's: Django has no setting for it."""

    def middleware(request):
        # Only for the gateway's own connections: a Unix socket (empty) or this machine.
        if request.META.get("REMOTE_ADDR", "") in ("", "127.0.0.1", "::1"):
            request.META["REMOTE_ADDR"] = request.META.get("HTTP_X_REAL_IP", "")
        return get_response(request)

    return middleware


@require_GET
def index(request):
    return HttpResponse(f"hello from Django, process {os.getpid()}\n", content_type="text/plain")


@require_GET
def whoami(request):
    return JsonResponse(
        {
            "framework": "django",
            "pid": os.getpid(),
            "client": request.META["REMOTE_ADDR"],
            "scheme": request.scheme,
            "host": request.get_host(),
            "prefix": request.META.get("SCRIPT_NAME", "") or settings.FORCE_SCRIPT_NAME or "",
            "path": request.path_info,
            "headers": [[name, value] for name, value in request.headers.items()],
        }
    )


@require_GET
def healthz(request):
    return HttpResponse("ok\n", content_type="text/plain")


@require_GET
def slow(request):
    seconds = min(max(float(request.GET.get("seconds", "1")), 0.0), SLOWEST_SECONDS)
    time.sleep(seconds)
    return HttpResponse(f"slept {seconds} s in process {os.getpid()}\n", content_type="text/plain")


@csrf_exempt
@require_POST
def echo(request):
    digest, length = hashlib.sha256(), 0
    while block := request.read(65536):
        digest.update(block)
        length += len(block)
    return JsonResponse({"length": length, "sha256": digest.hexdigest()})


@require_GET
def big(request):
    def blocks(left):
        while left > 0:
            yield BLOCK[:left]
            left -= len(BLOCK)

    size = min(int(request.GET.get("bytes", "1000000")), BIGGEST_BYTES)
    return StreamingHttpResponse(blocks(size), content_type="application/octet-stream")


@require_GET
def boom(request):
    raise RuntimeError("boom, as asked")


urlpatterns = [
    path("", index),
    path("whoami", whoami),
    path("healthz", healthz),
    path("slow", slow),
    path("echo", echo),
    path("big", big),
    path("boom", boom),
]

application = get_wsgi_application()
