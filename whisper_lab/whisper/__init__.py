"""The model itself: loading, saving, windows as short as the speech, decoding, batches, other programs' formats."""
