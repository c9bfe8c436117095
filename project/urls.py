"""The demo's addresses; the event streams live below `events/`."""

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path
from django.views.generic import RedirectView

from project import fragments, showcase, views

urlpatterns = [
    path("", showcase.showcase, name="showcase"),
    path("showcase/order/", showcase.save_order, name="showcase_order"),
    path("showcase/burst/", showcase.burst, name="showcase_burst"),
    path("showcase/slow/", showcase.slow_burst, name="showcase_slow"),
    path("showcase/wipe/", showcase.wipe, name="showcase_wipe"),
    path("showcase/restart/", showcase.restart, name="showcase_restart"),
    path("showcase/server/", showcase.seen_by_server, name="showcase_server"),
    path("board/", views.board, name="board"),
    path("orders/", views.orders, name="orders"),
    path("orders/new/", views.new_order, name="new_order"),
    path("orders/<int:pk>/advance/", views.advance_order, name="advance_order"),
    path("chat/", RedirectView.as_view(url="lobby/"), name="chat_lobby"),
    path("chat/<slug:room>/", views.chat, name="chat"),
    path("chat/<slug:room>/messages/", views.chat_messages, name="chat_messages"),
    path("clock/", views.clock, name="clock"),
    path("clock/stream/", views.clock_stream, name="clock_stream"),
    path("import/", views.import_page, name="import"),
    path("import/start/", views.begin_import, name="start_import"),
    path("htmx/", fragments.htmx, name="htmx"),
    path("turbo/", fragments.turbo, name="turbo"),
    path("rows/place/", fragments.place, name="place_row"),
    path("rows/<int:pk>/advance/", fragments.advance, name="advance_row"),
    path("events/", include("sse_app.urls")),
    path(
        "login/",
        # The login page shows the demo's passwords only in DEBUG.
        LoginView.as_view(extra_context={"show_logins": settings.DEBUG}),
        name="login",
    ),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    # The admin's pages name no icon, so browsers ask for this one.
    path("favicon.ico", RedirectView.as_view(url=f"{settings.STATIC_URL}project/icon.svg")),
]
