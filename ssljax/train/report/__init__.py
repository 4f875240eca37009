"""What the report page is drawn with."""
