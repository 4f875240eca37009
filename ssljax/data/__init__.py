"""What every field shares on the way from a source of records to batches on the devices."""
