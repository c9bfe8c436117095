"""The demo site: a board of orders, a chat and a clock that move in every open tab."""
