"""Speech to text for people: the transcriber, the two pages, the terminal."""
