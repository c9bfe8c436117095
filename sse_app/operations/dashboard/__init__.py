"""The admin's live streams. Costs nothing until its page is opened."""
