"""Made downloads of the benchmarks, a few tiny images each, in exactly the published formats."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import utm
from PIL import Image
from scipy.io import savemat


def write_images(folder: Path, names: Sequence[str]) -> None:
    """A different 4 x 4 image for each name, whose suffix decides the format."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (len(name) % 256, i % 256, 99)).save(path)


def write_dbstruct(
    path: Path,
    database: Sequence[str],
    database_utm: np.ndarray,
    queries: Sequence[str],
    query_utm: np.ndarray,
    **changes: object,
) -> None:
    """NetVLAD's struct: its ten fields in order, cell arrays (N, 1), positions (2, N).

    `changes` replaces a field's value; None leaves the field out.
    """
    struct = {
        "whichSet": path.stem.rpartition("_")[2],
        "dbImageFns": cells(database),
        "utmDb": np.asarray(database_utm, dtype=float).T,
        "qImageFns": cells(queries),
        "utmQ": np.asarray(query_utm, dtype=float).T,
        "numImages": float(len(database)),
        "numQueries": float(len(queries)),
        "posDistThr": 25.0,
        "posDistSqThr": 625.0,
        "nonTrivPosDistSqThr": 100.0,
    } | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"dbStruct": {k: v for k, v in struct.items() if v is not None}})


def cells(names: Sequence[str]) -> np.ndarray:
    """A MATLAB cell array (N, 1) of strings."""
    return np.array(list(names), dtype=object).reshape(-1, 1)


PITTS_UTM = np.array([[585_000.126, 4_477_000.0], [585_020.0, 4_477_015.0], [586_000.0, 4.478e6]])


def write_pitts(raw: Path, name: str = "pitts30k", **changes: object) -> Path:
    """Three panoramas of two cut-outs and two query panoramas of one, in train, val and test."""
    for number, split in enumerate(("train", "val", "test")):
        database = [
            f"00{number}/00{number}{pano:03d}_pitch{pitch}_yaw{12 * pitch - 11}.jpg"
            for pano in range(3)
            for pitch in (1, 2)
        ]
        queries = [f"00{number}/00{number}{pano:03d}_pitch1_yaw3.jpg" for pano in range(2)]
        write_images(raw, database)
        write_images(raw / "queries_real", queries)
        write_dbstruct(
            raw / "datasets" / f"{name}_{split}.mat",
            database,
            np.repeat(PITTS_UTM, 2, axis=0),
            queries,
            PITTS_UTM[:2] + np.array([3, 4]),
            **changes,
        )
    return raw


TOKYO_LATLON = ((35.6595, 139.7005), (35.6612, 139.7040))  # two phone photos in Shibuya


def write_tokyo(raw: Path, queries: str = "247query_subset_v2") -> Path:
    """Two panoramas of 12 cut-outs, listed as .jpg and there as .png, and two queries."""
    positions = np.array([utm.from_latlon(*latlon)[:2] for latlon in TOKYO_LATLON])
    database, database_utm = [], []
    for pano, (east, north) in zip("ab", positions, strict=True):
        for yaw in range(0, 360, 30):
            database.append(f"03814/{east:.3f}_{north:.3f}/{pano * 22}_012_{yaw:03d}.jpg")
            database_utm.append((east + 10, north))
    write_images(raw, [name.replace(".jpg", ".png") for name in database])
    names = ["00010.jpg", "00379.jpg"]
    write_images(raw / queries, names)
    for name, (latitude, longitude) in zip(names, TOKYO_LATLON, strict=True):
        row = f"{name},{latitude},{longitude},0,0,Day\n"
        (raw / queries / name).with_suffix(".csv").write_text(row)
    write_dbstruct(raw / "datasets" / "tokyo247.mat", database, database_utm, names, positions)
    return raw


def write_nordland(raw: Path, frames: int = 30, every: int | None = 2) -> Path:
    """Frames of both seasons, and a clean list of every second one unless `every` is None."""
    names = [f"images-{frame:05d}.png" for frame in range(frames)]
    for season in ("summer", "winter"):
        write_images(raw / season, names)
    if every:
        (raw / "nordland_imageNames.txt").write_text("\n".join(names[2::every]) + "\n")
    return raw


def write_sfxl(raw: Path, version: str = "processed", subfolder: str = "") -> Path:
    """Five database images and two queries a split; `subfolder` gets the database."""
    for folder, count in (
        *(("val/database", 5), ("val/queries", 2)),
        *(("test/database", 5), ("test/queries_v1", 2), ("test/queries_v2", 1)),
        *(("test/queries_night", 3), ("test/queries_occlusion", 1)),
    ):
        names = [
            f"@0543{i}58.27@4180593.76@10@S@037.77166@-122.50995@pano{i}@@206@@@@201311@@.jpg"
            for i in range(count)
        ]
        inner = subfolder if folder.endswith("database") else ""
        write_images(raw / version / folder / inner, names)
    return raw


# Where and what the photos are: key, metres east and north of the city's centre, is a panorama,
# is marked `all`. The last query is marked, but no database photo is within 25 m of it.
MSLS_PHOTOS = {
    "database": [("d0", 0, 0, False), ("d1", 20, 0, False), ("dp", 5, 0, True)],
    "query": [
        *(("q0", 3, 0, False, True), ("q1", 3, 4, False, False)),
        *(("qp", 0, 0, True, True), ("far", 300, 0, False, True)),
    ],
}
MSLS_CENTRES = {"cph": (723_923.0, 6_177_544.1, 32, "U"), "sf": (551_000.0, 4_180_000.0, 10, "S")}


def write_msls(raw: Path, subtasks: bool = True) -> Path:
    """Copenhagen, given in its western neighbour's zone as it really is, and San Francisco."""
    for city, (east, north, zone, letter) in MSLS_CENTRES.items():
        for side, photos in MSLS_PHOTOS.items():
            folder = raw / "train_val" / city / side
            raw_rows = [",key,lon,lat,ca,captured_at,pano"]
            derived_rows = [
                ",key,easting,northing,unique_cluster,control_panel,night,view_direction"
            ]
            marks = [",key,all,w2s,s2w,d2n,n2d,o2n,n2o"]
            for i, (name, x, y, pano, *marked) in enumerate(photos):
                key = f"{city}-{name}_22characters"
                latitude, longitude = utm.to_latlon(east + x, north + y, zone, letter)
                raw_rows.append(f"{i},{key},{longitude},{latitude},12.5,2017-05-08,{pano}")
                derived_rows.append(
                    f"{i},{key},{east + x},{north + y},{i},False,{name == 'q1'},Forward"
                )
                marks.append(f"{i},{key},{(marked or [True])[0]}" + ",False" * 6)
                write_images(folder / "images", [f"{key}.jpg"])
            (folder / "raw.csv").write_text("\n".join(raw_rows) + "\n")
            (folder / "postprocessed.csv").write_text("\n".join(derived_rows) + "\n")
            if subtasks:
                (folder / "subtask_index.csv").write_text("\n".join(marks) + "\n")
    return raw


def write_svox(raw: Path) -> Path:
    """A gallery of four, as the archive has it, and queries of three weathers."""
    for folder, count in (
        ("gallery", 4),
        ("queries_night", 2),
        ("queries_snow", 1),
        ("queries", 3),
    ):
        names = [f"@062010{i}.00@5734500.00@30@U@@@{folder}{i}@@@@@@@@.jpg" for i in range(count)]
        write_images(raw / "svox" / "images" / "test" / folder, names)
    return raw


def write_amstertime(raw: Path, pairs: int = 3) -> Path:
    """Street views as .png, archive photos as .jpg, and the tables beside them."""
    write_images(raw / "new", [f"{i:04d}.png" for i in range(pairs)])
    write_images(raw / "old", [f"{i:04d}.jpg" for i in range(pairs)])
    (raw / "image_pairs.csv").write_text("id\n")
    return raw


def write_sped(raw: Path, pairs: int = 3) -> Path:
    """As VPR-Bench's archive has it, with a ground truth that is a pickle."""
    for folder in ("ref", "query"):
        write_images(raw / "SPEDTEST" / folder, [f"{i:07d}.jpg" for i in range(pairs)])
    truth = np.array([[i, [i]] for i in range(pairs)], dtype=object)
    np.save(raw / "SPEDTEST" / "ground_truth_new.npy", truth, allow_pickle=True)
    return raw


EYNSHAM_LONLAT = [((-1.37, 51.78), (-1.36, 51.79))[i % 2] for i in range(5)]


def write_eynsham(raw: Path) -> Path:
    """Five panoramas of five tiles and as many positions, on one line of a KML file."""
    names = [f"grab_{1_195_144_400 + 5 * i}.{i:06d}_{t}.ppm" for i in range(5) for t in range(5)]
    write_images(raw / "Eynsham" / "Images", names)
    points = " ".join(f"{lon},{lat},0" for lon, lat in EYNSHAM_LONLAT)
    kml = f"<coordinates>0,0</coordinates>\n<kml>\n<coordinates>{points} </coordinates>"
    path = raw / "Eynsham" / "Route_map" / "Eynsham.kml"
    path.parent.mkdir()
    path.write_text(kml)
    return raw


ST_LUCIA_STEPS = {"100909_0845": [0, 3, 6, 10, 12], "180809_1545": [0], "210809_1210": [2, 4, 8]}


def write_st_lucia(raw: Path) -> Path:
    """Three drives: metres north of the start for each frame, latitudes without their sign."""
    for drive, metres in ST_LUCIA_STEPS.items():
        write_images(raw / drive / "frames", [f"{i:05d}.png" for i in range(len(metres))])
        latlon = [utm.to_latlon(500_000.0, 6_956_000.0 + m, 56, "J") for m in metres]
        rows = [f"{-latitude:.9f},{longitude:.9f}" for latitude, longitude in latlon]
        (raw / drive / "fGPS.txt").write_text("\n".join([*rows, rows[-1]]) + "\n")
    return raw


CHALLENGE = ("miami", "athens", "buenosaires", "stockholm", "bengaluru", "kampala")


def write_msls_challenge(raw: Path) -> Path:
    """Two database images and two queries a city, of which one query is of no task."""
    for city in CHALLENGE:
        for side in ("database", "query"):
            keys = [f"{city}-{side[0]}{i}_22characters" for i in range(2)]
            folder = raw / "test" / city / side
            write_images(folder / "images", [f"{key}.jpg" for key in keys])
            rows = [f"{i},{key},{side == 'database' or i == 0}" for i, key in enumerate(keys)]
            (folder / "subtask_index.csv").write_text("\n".join([",key,all", *rows]) + "\n")
    return raw
