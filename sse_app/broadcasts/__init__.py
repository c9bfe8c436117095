"""What people send from the admin."""
