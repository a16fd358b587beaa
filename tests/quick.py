"""The embedded model as a tuned one is served: on windows as short as the speech."""

from whisper_lab.serving.transcription import Transcriber
from whisper_lab.speech.features import FRAMES


class Quick(Transcriber):
    """It hears the sample's clips on them though it was not tuned, in a quarter of the time of 30 s."""

    def __init__(self, model: str, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        if model == "sample":
            self.lengths = [400, 600, 800, 1_000, FRAMES]
