"""The handle of an attached method, and the file that an adapter lies in."""
