"""A Django app with a login and a form, for the tests that no user sees what is another's. As users_flask.py, and:

/form         a page with a CSRF token
"""

import os
import secrets

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

settings.configure(
    SECRET_KEY="for tests alone",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    SESSION_COOKIE_NAME=os.environ.get("SESSION_COOKIE", "sessionid"),
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
)


def healthz(request):
    return HttpResponse("ok")


@csrf_exempt
def login(request):
    request.session["user"] = request.POST["user"]
    request.session["secret"] = secrets.token_hex(8)
    return HttpResponse(f"welcome {request.session['user']} {request.session['secret']}")


def index(request):
    return HttpResponse(f"<p>user {request.session.get('user', 'nobody')} {request.session.get('secret', '')}</p>")


def untouched(request):
    return HttpResponse("<p>the same for everybody</p>")


def careless(request):
    response = index(request)
    # After what the middleware does: as an app that builds its own responses might.
    request.session.accessed = False
    response["Cache-Control"] = "public, max-age=60"
    return response


def form(request):
    return HttpResponse(f"<form><input name=csrfmiddlewaretoken value={get_token(request)}></form>")


urlpatterns = [
    path("healthz", healthz),
    path("login", login),
    path("", index),
    path("untouched", untouched),
    path("careless", careless),
    path("form", form),
]
app = get_wsgi_application()
