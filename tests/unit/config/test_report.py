"""What ``dibctl validate`` finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_dibctl.cli.configuration import report_data
from pytest_dibctl.config import report
from pytest_dibctl.config.entry import Entry
from pytest_dibctl.config.models.images import Image
from pytest_dibctl.errors import BuildError
from tests.support import results
from tests.unit.config.support import CLOUD, Place

EXAMPLES = Path(__file__).parents[2] / "data" / "dibctl-examples"


def validate(place: Place, **options: Any) -> report.Report:
    return report.validate(cwd=place.cwd, system=place.system, **options)


def test_a_good_configuration(place: Place) -> None:
    script = place.write("t.sh", "#!/bin/sh\n")
    script.chmod(0o755)
    place.write("configs/images.yaml", "a: {filename: old.qcow2}")
    place.write(
        "images.yaml",
        "a: {filename: x.qcow2, tests: {environment_name: c, tests_list: [{shell: t.sh}]}}\nb: {filename: y}",
    )
    place.write("test.yaml", f"c:\n  {CLOUD}")
    found = validate(place)
    assert found.ok
    assert list(found.lines()) == [
        "read configs/images.yaml: 1 image: a",
        "read images.yaml: 2 images: a, b",
        "read test.yaml: 1 test environment: c",
        "image a: images.yaml:1:1 (a), tested in c (test.yaml:1:1 (c))",
        f"    shell: {script}",
        "image b: images.yaml:2:1 (b), tested in local (built-in)",
        "warning: image 'a': images.yaml:1:1 replaces configs/images.yaml:1:1",
        "the configuration is valid",
    ]


def test_everything_that_is_wrong_is_found(place: Place) -> None:
    place.write("t.sh", "")
    place.write(
        "images.yaml",
        """\
        a: {filename: x, tests: {environment_name: d, tests_list: [{shell: t.sh}, {pytest: gone.py}]}}
        b: {}
        """,
    )
    place.write("test.yaml", f"c:\n  {CLOUD}\n  qemu: {{}}\ndd: {{qemu: {{userdata_file: gone.yaml}}}}\n")
    found = validate(place)
    assert not found.ok
    assert [error.partition(" ")[0] for error in found.errors] == [
        "images.yaml:2:1:",
        "test.yaml:4:3:",
        "test.yaml:5:13",
    ]
    (image,) = found.images
    assert [error.partition("): ")[2].replace(str(place.cwd), "") for error in image.errors] == [
        "there is no test environment 'd' (did you mean 'dd'?)",
        "/t.sh is not executable (chmod +x /t.sh)",
        "there is no /gone.py",
    ]
    assert image.environment_at is None
    assert list(found.lines())[-1] == "6 errors"


def test_without_any_file(place: Place) -> None:
    found = validate(place)
    assert not found.ok
    assert next(found.lines()) == "no configuration file was found"
    assert "there is no images.yaml" in found.errors[0]
    assert "--images-config" in found.errors[0]


def test_what_a_check_refuses_is_an_error_of_its_image_with_its_hint(place: Place) -> None:
    place.write("images.yaml", "a: {filename: x}\nb: {filename: y}")

    def check(image: Entry[Image], cwd: Path) -> tuple[str, ...]:
        assert cwd == place.cwd
        if image.label == "b":
            raise BuildError(f"{image.at('filename')}: odd", hint="make it even")
        return ("looks odd",)

    found = validate(place, checks=[check])
    assert [image.errors for image in found.images] == [
        (),
        ("images.yaml:2:5 (b.filename): odd (make it even)",),
    ]
    assert list(found.lines())[-2:] == [
        "error: images.yaml:2:5 (b.filename): odd (make it even)",
        "1 error",
    ]
    assert not found.ok


def test_a_broken_file_does_not_hide_the_others(place: Place) -> None:
    place.write("images.yaml", "a: [\n")
    place.write("images.d/b.yaml", "b: {filename: x}\n")
    found = validate(place)
    assert [image.label for image in found.images] == ["b"]
    assert len(found.errors) == 1


def test_the_report_is_json_and_holds_no_secret(place: Place) -> None:
    found = validate(
        place,
        images=EXAMPLES / "images.yaml",
        test=EXAMPLES / "test.yaml",
        upload=EXAMPLES / "upload.yaml",
    )
    data = json.dumps(report_data(found))
    text = data + "\n".join(found.lines())
    assert "not a real one" not in text
    assert results.check("validate", data)["uploads"] == [
        "region_one",
        "region_two",
        "by_other_means",
    ]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "external_upload",
            [{"cmdline": "true"}, {"cmdline": "send %(imput_filename)s"}],
            "external_upload[1]",
        ),
        ("external_upload", [{"cmdline": "exit 1"}], "external_upload[0]"),
        ("external_upload", [{"cmdline": "gzip -c x > y"}], "external_upload[0]"),
        (
            "preprocessing",
            {"cmdline": "tool %(input_filename)", "output_filename": "x"},
            "preprocessing: cmdline",
        ),
        ("preprocessing", {"cmdline": "tool", "output_filename": "%(x)s"}, "preprocessing: output_filename"),
        ("obsolete", {"name": "Old %(nme)s"}, "obsolete.name"),
        ("glance", {"import_method": "web-download", "import_uri": "http://x/%(file)s"}, "glance.import_uri"),
    ],
)
def test_templates_of_upload_environments_are_tried(place: Place, key: str, value: object, said: str) -> None:
    place.write("images.yaml", "a: {filename: x}")
    place.write("upload.yaml", yaml.safe_dump({"one": {"keystone": {"cloud": "c"}, key: value}}))
    (error,) = validate(place).errors
    assert f"one.{said}" in error.replace(" (", ".").replace(")", "") or said in error
    assert error.startswith("upload.yaml:")


def test_templates_of_test_environments_and_images_are_tried(place: Place) -> None:
    glance = {"import_method": "web-download", "import_uri": "http://x/%(file)s"}
    place.write("images.yaml", yaml.safe_dump({"a": {"filename": "x", "glance": glance}}))
    broken = {"cmdline": "tool | other", "output_filename": "y"}
    place.write(
        "test.yaml",
        yaml.safe_dump(
            {"one": {"keystone": {"cloud": "c"}, "nova": {"flavor": "f"}, "preprocessing": broken}}
        ),
    )
    errors = validate(place).errors
    assert [error.partition(":")[0] for error in errors] == ["images.yaml", "test.yaml"]


def test_what_a_check_warns_of_is_a_warning_and_no_error(place: Place) -> None:
    place.write("images.yaml", "a: {filename: x}\nb: {filename: y}")
    found = validate(place, checks=[lambda _image, _cwd: ("its script is skipped",)])
    assert (found.warnings, found.ok) == (("its script is skipped",), True)
