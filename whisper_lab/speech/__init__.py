"""Sound: files and arrays to 16 kHz, where someone speaks, Whisper's log-mel features. Knows nothing of corpora."""
