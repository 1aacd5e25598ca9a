"""The report on both databases and both stores."""

import json
import re
from pathlib import Path

from imagemill.db.storage import Storage
from imagemill.scheduler_jobs.curation.tags import tag_images
from imagemill.scheduler_jobs.pages.report import ReportOptions, write_report
from tests.helpers.dataset import finished_job
from tests.helpers.mill import Mill


def test_a_report_of_any_database_and_store(mill: Mill, storage: Storage, tmp_path: Path) -> None:
    job = finished_job(mill, storage, tmp_path)
    tag_images(mill.database, [1, 2], "keep")
    file = tmp_path / "report.html"
    result = write_report(mill.database, storage, job, file, options=ReportOptions())
    assert (result.images, result.thumbnails) == (6, 6)
    blocks = dict(re.findall(r'class="(\w+)">(.*)</script>', file.read_text()))
    summary, images = json.loads(blocks["summary"]), json.loads(blocks["images"])
    assert sum(summary["throughput"]["images"]) == 6
    histograms = {each["name"]: each["bars"] for each in summary["histograms"]}
    assert [bar["value"] for bar in histograms["extras.rating"]] == [3, 4.5, 5]
    assert [(bar["value"], bar["images"]) for bar in histograms["tags"]] == [("keep", 2)]
    assert [image.get("tags") for image in images[:3]] == [["keep"], ["keep"], None]
    if storage.uri.startswith("s3://"):
        assert images[0]["file"].startswith("s3://")
    else:
        assert (tmp_path / images[0]["file"]).is_file()
