"""Pictures as a field: sources, views, task, scores, page and export."""
