"""Settings of the demo site; the environment sets the ones that differ between machines."""

import os
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent


def _flag(name: str) -> bool:
    """Read a yes-or-no variable; unset means no."""
    value = os.environ.get(name, "")
    if value.lower() in {"1", "true", "yes", "on"}:
        return True
    if value.lower() in {"", "0", "false", "no", "off"}:
        return False
    raise ImproperlyConfigured(f"{name}={value!r} is neither 1/true/yes/on nor 0/false/no/off.")


def _secret_key() -> str:
    """Read SECRET_KEY, which is required unless DEBUG is on."""
    if key := os.environ.get("SECRET_KEY"):
        return key
    if DEBUG:
        return "django-insecure-demo-key-for-debug-only"
    raise ImproperlyConfigured(
        "The environment variable SECRET_KEY is empty. Set it to a long random string,"
        " or set DEBUG=1 to run the demo with a key that everybody knows."
    )


def _allowed_hosts() -> list[str]:
    """Read ALLOWED_HOSTS, a comma-separated list; the default is this machine and HOST."""
    if listed := os.environ.get("ALLOWED_HOSTS"):
        return [host.strip() for host in listed.split(",") if host.strip()]
    return list(dict.fromkeys(["localhost", "127.0.0.1", "[::1]", URL_HOST]))


def _database(url: str) -> dict[str, Any]:
    """Read a database URL; SQLite gets the options that several writing processes need."""
    database: dict[str, Any] = dict(dj_database_url.parse(url))
    if database["ENGINE"] == "django.db.backends.sqlite3":
        # If a deferred transaction reads first and writes later, the write may fail with "database
        # is locked" in spite of the timeout. An immediate transaction waits for its turn.
        database["OPTIONS"] = database.get("OPTIONS", {}) | {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        }
    return database


HOST = os.environ.get("HOST") or "127.0.0.1"
PORT = os.environ.get("PORT") or "8000"
URL_HOST = f"[{HOST}]" if ":" in HOST else HOST

DEBUG = _flag("DEBUG")
SECRET_KEY = _secret_key()
ALLOWED_HOSTS = _allowed_hosts()

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "sse_app",
    "project",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "project.middleware.content_security_policy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": _database(os.environ.get("DATABASE_URL") or f"sqlite:///{BASE_DIR / 'db.sqlite3'}")
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

if _redis_url := os.environ.get("REDIS_URL"):
    CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [_redis_url]},
        }
    }
else:
    CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

SSE_APP: dict[str, Any] = {
    "PUBLIC_GROUPS": [
        *("clock", "orders", "orders.*", "chat.*", "import"),
        *("showcase", "showcase.*"),
    ],
    # Any visitor may publish events of 60 KB on the landing page.
    "RETENTION_EVENTS": 1_000,
    "PRESENCE_GROUPS": ["chat.*"],
}
if _event_log := os.environ.get("SSE_EVENT_LOG"):
    SSE_APP["EVENT_LOG"] = {"BACKEND": _event_log}
    if _redis_url and _event_log.endswith(".RedisEventLog"):
        SSE_APP["EVENT_LOG"]["URL"] = _redis_url

# The demo's logins, such as "ann" with the password "ann", would pass no validator.
AUTH_PASSWORD_VALIDATORS: list[dict[str, Any]] = []
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "showcase"
LOGOUT_REDIRECT_URL = "showcase"

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"brief": {"()": "project.logs.BriefFilter"}},
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["brief"]}
    },
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {
        "django": {"handlers": ["console"], "level": "INFO", "propagate": False},
        "sse_app": {"handlers": ["console"], "level": "INFO", "propagate": False},
        "project": {"handlers": ["console"], "level": "INFO", "propagate": False},
    },
}
