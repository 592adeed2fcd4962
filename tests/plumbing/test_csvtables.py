"""CSV files of every form: the same table, or an error that names file, row and value."""

import numpy as np
import pytest

from dinomix.plumbing.csvtables import ImageTable, Table, as_number

TEXT = "image,east,note\na.jpg,400000, x \nsub/b.jpg,400010.5,\n"
SHORT = 2000  # characters, at most, of a message


def write(tmp_path, content):
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no BOM", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\n\n"])
def test_byte_order_marks_and_line_ends_do_not_matter(tmp_path, mark, end):
    table = ImageTable.read(write(tmp_path, mark + TEXT.encode().replace(b"\n", end)))
    assert list(table.columns) == ["image", "east", "note"]
    assert table.images == [tmp_path / "a.jpg", tmp_path / "sub/b.jpg"]
    assert table.values("east", 0, 1e6).tolist() == [400000, 400010.5]
    assert table.columns["note"] == ["x", ""]
    assert table.numbers == ([3, 5] if end == b"\n\n" else [2, 3])
    assert table.has("east", "note") and not table.has("east", "north")


@pytest.mark.parametrize(
    "text",
    [
        "image, east ,  note\n a.jpg , 400000, x\nsub/b.jpg,400010.5,",  # spaces
        'image, east, note\n"a.jpg", "400000", "x"\n"sub/b.jpg", 400010.5,',
        "image,east,note,,\na.jpg,400000,x,,\nsub/b.jpg,400010.5,,,\n,,,,\n , ,,,\n",  # Excel's
        "image,east,note\na.jpg,400000,x,,\n,,\nsub/b.jpg,400010.5,\n\n",
        "Image,EAST,Note\na.jpg,400000,x\nsub/b.jpg,400010.5,\n",  # capitals
        "\ufeffimage;east;note\r\na.jpg;400000;x\r\nsub/b.jpg;400010,5;\r\n",  # Excel's in Europe
        'image;east;note\n"a.jpg";+400000,0;x\nsub/b.jpg;400010.5;;\n',
    ],
)
def test_what_spreadsheets_add_does_not_matter(tmp_path, text):
    table = ImageTable.read(write(tmp_path, text))
    assert list(table.columns) == ["image", "east", "note"]
    assert table.images == [tmp_path / "a.jpg", tmp_path / "sub/b.jpg"]
    assert table.values("east", 0, 1e6).tolist() == [400000, 400010.5]
    assert table.columns["note"] == ["x", ""]


@pytest.mark.parametrize("pair", ["lat,lon", "LAT,LON", "Latitude,Longitude", "lat,lng"])
def test_short_names_of_degrees(tmp_path, pair):
    table = ImageTable.read(write(tmp_path, f"image,{pair}\na.jpg,45.5,3"))
    assert table.values("latitude", -90, 90) == [45.5]
    assert table.values("longitude", -180, 180) == [3]
    both = ImageTable.read(write(tmp_path, "image,lat,latitude\na.jpg,1,2"))
    assert both.columns["latitude"] == ["2"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", r"lacks the columns \['image'\]; .* header has ''"),
        ("<html>404</html>", "lacks the columns"),
        (TEXT.replace(",", "|"), r"separated by commas, its header has 'image\|east\|note'"),
        (TEXT.replace("note", "east"), r"has the columns \['east'\] twice"),
        ("image,east\n", "has no rows"),
        ("image,east\n,,\n", "has no rows"),
        ("Image,image\na.jpg,b.jpg\n", r"has the columns \['image'\] twice"),
        (TEXT + "c.jpg,1\n", "row 4: expected 3 fields, .* has 2"),
        (TEXT + "c.jpg,1,2,3\n", "row 4: expected 3 fields, .* has 4"),
        (TEXT + '"c.jpg,1,2\n', "is not a CSV file in UTF-8: line 4"),
        (TEXT + "9" * 1_000_000 + ",1,2", "line 4: field larger than field limit"),
        ((TEXT + "é.jpg,1,1\n").encode("latin-1"), "UTF-8: line 4 is in another encoding; save"),
        (b"\xef\xbb\xbfimage\n\n\xff\xfe\x00x", "UTF-8: line 3 is in another encoding"),
        *((TEXT + f"{name},1,2\n", "row 4: image is .* expected a path within") for name in (
            *("", ".", "..", "../c.jpg", "x/../../c.jpg", "/c.jpg", "../" * 1000, "c\0.jpg"),
            *(r"C:\c.jpg", r"C:c.jpg", r"..\c.jpg", r"\\host\c.jpg"),
        )),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_named(tmp_path, content, complaint):
    with pytest.raises(ValueError, match=rf"bad\.csv,? .*{complaint}") as error:
        ImageTable.read(write(tmp_path, content))
    assert len(str(error.value)) < SHORT


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no CSV file .*nowhere\.csv"):
        Table.read(tmp_path / "nowhere.csv", [])


JUNK = ("", "x", "1_0", "0x10", "True", "None", "nan", "inf", "-Infinity", "1e999", "1,5")
JUNK += ("\uff14\uff10", "٢٠٢٠", "99999999999999999999", "9" * 100_000)


@pytest.mark.parametrize("junk", JUNK)
def test_a_value_that_is_no_number_is_named(tmp_path, junk):
    table = Table.read(write(tmp_path, f'n,m\n1,1\n"{junk}",1\n"{junk}",1\n'), ["n"])
    for whole, kind in ((True, "a whole number"), (False, "a number")):
        expected = rf"bad\.csv, row 3: n is .*, expected {kind} from -10 to 1,000 .*in 1 more rows"
        with pytest.raises(ValueError, match=expected) as error:
            table.values("n", -10, 1000, whole)
        assert (repr(junk) in str(error.value)) == (len(junk) < 100)
        assert len(str(error.value)) < SHORT


def test_numbers_are_those_of_python_in_ascii(tmp_path):
    texts = ["1", " 2.5 ", "-0.0", "+3e2", "1e-3"]
    table = Table.read(write(tmp_path, "\n".join(["n", *texts])), ["n"])
    assert table.values("n", -1, 300).tolist() == [float(text) for text in texts]
    with pytest.raises(ValueError, match=r"row 3: n is '2\.5', expected a whole number"):
        table.values("n", -1, 300, whole=True)
    assert np.isnan([as_number(text) for text in ("4_0", "four", "\uff14", "nan")]).all()


def test_rows_can_be_taken(tmp_path):
    table = ImageTable.read(write(tmp_path, TEXT)).take([1])
    assert (table.numbers, table.images) == ([3], [tmp_path / "sub/b.jpg"])
    assert table.values("east", 0, 1e6).tolist() == [400010.5]
    assert table.take([]).values("east", 0, 1).shape == (0,)
