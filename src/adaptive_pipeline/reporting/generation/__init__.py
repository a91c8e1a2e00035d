"""Reports on tasks that write text: tables, figures, and pages of single texts."""
