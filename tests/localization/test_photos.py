"""Which photos a path stands for."""

import os

import pytest

from dinomix.localization.photos import find_photos


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(photos):
    return [path.relative_to(photos.root).as_posix() for path in photos.paths]


def test_a_folder_and_all_folders_in_it(tmp_path):
    touch(tmp_path, "b.JPG", "a b.png", "old/c.jpeg", "old/ä/d.jpg", "old/note.txt", "e.heic")
    touch(tmp_path, ".f.jpg", ".hidden/g.jpg", "old/.dinomix.sqlite")
    photos = find_photos(tmp_path)
    assert names(photos) == ["a b.png", "b.JPG", "e.heic", "old/c.jpeg", "old/ä/d.jpg"]
    assert photos.root == tmp_path and photos.position(photos.paths[0]) is None


def test_links_to_files_are_followed_and_links_to_folders_are_not(tmp_path):
    touch(tmp_path, "photos/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "photos" / "b.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "photos" / "round").symlink_to(tmp_path / "photos")
    assert names(find_photos(tmp_path / "photos")) == ["a.jpg", "b.jpg"]


def test_one_photo(tmp_path):
    touch(tmp_path, "a.webp", "b.jpg")
    assert names(find_photos(str(tmp_path / "a.webp"))) == ["a.webp"]


@pytest.mark.parametrize("name", ["nowhere", "nowhere.jpg", "nowhere.csv"])
def test_nothing_there(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"no photo, folder or CSV file .*{name}"):
        find_photos(tmp_path / name)


def test_no_image_there(tmp_path):
    touch(tmp_path, "notes.txt", ".hidden.jpg")
    with pytest.raises(FileNotFoundError, match=r"hold no images \(\.jpg, \.jpeg, \.png, "):
        find_photos(tmp_path)


class TestTables:
    def read(self, tmp_path, *lines):
        for line in lines[1:]:
            touch(tmp_path, line.split(",")[0])
        (tmp_path / "d.csv").write_text("\n".join(lines) + "\n")
        photos = find_photos(tmp_path / "d.csv")
        return photos, [photos.position(path) for path in photos.paths]

    def test_degrees_some_of_them_unknown(self, tmp_path):
        photos, (a, b) = self.read(
            tmp_path, "image,latitude,longitude,who", "x/a.jpg,45,6.5,me", "b.jpg, ,,you"
        )
        assert names(photos) == ["x/a.jpg", "b.jpg"] and photos.root == tmp_path
        assert (a.latitude, a.longitude, a.utm_zone) == (45, 6.5, "32T") and b is None

    def test_metres(self, tmp_path):
        _, (a,) = self.read(tmp_path, "image,utm_east,utm_north", "a.jpg,400000,5e6")
        assert (a.utm_east, a.utm_north, a.geographic) == (400_000, 5e6, False)

    def test_degrees_come_before_metres_and_both_before_names(self, tmp_path):
        _, (a, b) = self.read(
            tmp_path,
            "image,utm_east,utm_north,latitude,longitude",
            "@1@2@.jpg,400000,5e6,45,6",
            "@3@4@.jpg,,,,",
        )
        assert a.latitude == 45 and (b.utm_east, b.utm_north) == (3, 4)

    def test_images_alone(self, tmp_path):
        photos, positions = self.read(tmp_path, "image", "a.jpg", "b.jpg", "a.jpg")
        assert names(photos) == ["a.jpg", "b.jpg"] and positions == [None, None]

    @pytest.mark.parametrize(
        ("row", "complaint"),
        [
            ("a.jpg,95,6", "row 3: latitude is '95', expected"),
            ("a.jpg,45,", "row 3: longitude is '', expected a number"),
            ("../a.jpg,45,6", "row 3: image is '../a.jpg', expected a path within"),
        ],
    )
    def test_a_wrong_row_is_named(self, tmp_path, row, complaint):
        os.makedirs(tmp_path / "in")
        with pytest.raises(ValueError, match=f"d.csv, {complaint}"):
            self.read(tmp_path / "in", "image,latitude,longitude", "b.jpg,45,6", row)

    def test_missing_images_are_an_error(self, tmp_path):
        (tmp_path / "d.csv").write_text("image\na.jpg\nb.jpg\n")
        with pytest.raises(FileNotFoundError, match="2 of the 2 images"):
            find_photos(tmp_path / "d.csv")
