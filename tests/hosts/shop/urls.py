"""The project's addresses, of which `sse_app.urls` is one line."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from . import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("events/", include("sse_app.urls")),
    path("page/", views.page),
    path("save/", views.save),
    path("clock/", views.clock),
    path("enter/", views.enter),
]
