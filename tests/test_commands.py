"""The two pipelines as they are typed, with features and models in stores: their real clients, servers on loopback."""

import json
import os

from conftest import script
from hopsworks_server import Hopsworks, broker

pytest_plugins = ["elsewhere"]


def test_features_on_s3_and_hopsworks_a_streamed_training_and_a_registry(s3, release, tiny, tmp_path):
    hopsworks = Hopsworks(tmp_path / "hopsworks")
    environment = os.environ | hopsworks.environment
    environment |= {"FSSPEC_S3_ENDPOINT_URL": s3.address, "WHISPER_LAB_CACHE": str(tmp_path / "cache")}

    def run(*command, **options):
        return script(*command, cwd=tmp_path, env=environment, **options)

    make = ["feature-pipeline.py", "--corpus", release, "--model", tiny, "--store"]
    try:
        assert f"published: {s3.url}/v1" in run(*make, s3.url).stdout
        place = "hopsworks://lab/Resources/cv"
        with broker() as (hopsworks.kafka, sent):
            assert f"published: {place}/v1" in run(*make, place, "--feature-group", "clips").stdout
            assert len(sent("clips_topic", 20)) == 20
        train = ["training-pipeline.py", "--features", place, "--stream", "--model", tiny, "--output", "model"]
        train += ["--max-steps", "2", "--blend", "1", "--batch-size", "4"]
        run(*train, "--registry", "hopsworks://lab/tiny-sv")
    finally:
        hopsworks.close()
    wer = json.loads((tmp_path / "model" / "metrics.json").read_text())["tuned"]["test"]["wer_normalised"]["value"]
    registered = hopsworks.models["tiny_sv_1"]
    assert registered["metrics"]["test_wer_normalised"] == wer
    assert (hopsworks.root / "lab" / "Models" / "tiny_sv" / "1" / "Files" / "model.safetensors").is_file()
    assert not list((tmp_path / "cache" / "streams").rglob("*.arrow"))
