"""Feature sets: made by one machine or many, kept in folders and at URLs, read and streamed from there."""
