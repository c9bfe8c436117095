"""Who may listen and speak, until when, and how many streams may be open."""
