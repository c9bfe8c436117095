"""An app whose models publish their changes in every way there is."""
