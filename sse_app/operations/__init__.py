"""What server processes report about themselves, and what watches over them."""
