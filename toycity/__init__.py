# ruff: noqa: F401 (what users import from here)
"""A procedural city to study place recognition in: deterministic, offline, on the CPU.

A city is drawn from a seed, built of textured quads, ray-cast with Intel Embree and shaded with
NumPy. Every ray knows what it hits, so a photo comes with the class and the depth of each pixel.

    city = make_city(301)                          # streets, blocks, buildings; city.places
    scene = Scene(city, CONDITIONS["dusk"])        # a mesh under one condition; keep and reuse it
    view, back = city.places[40].views()           # cameras along the street and back
    photo = scene.render(view, size=224)           # .rgb, .classes (index into CLASSES), .depth
    scene.render(Camera(x, y, heading=90, fov=60), size=(120, 160))
    scene.render(top_down(x, y, extent=80))        # a map view
    CONDITIONS["snow"].at(0.5)                     # halfway between the plain day and snow
    CONDITIONS["day"].jitter(view, rng)            # the camera of another visit
    city.utm(x, y), city.latlon(x, y)              # true coordinates, UTM zone 31T

    write_toycity("data/toycity", image_size=112)  # train, val and test in the field's layouts
    write_limits("data/toycity")                   # more test queries there, by severity
    write_drive("data/toycity")                    # ... and frames of a drive
    write_crossview("data/crossview")              # street photos and map tiles of places
    write_views("data/views", images=20_000)       # unlabelled views of other cities
    rerender("data/toycity", paths)                # the photos behind image files

Local coordinates are metres (x east, y north, z up); headings are degrees clockwise from north.
The same arguments give the same bytes on one machine; another processor may differ by a grey level.
"""

from toycity.camera import Camera, TopDown, top_down
from toycity.city import City, Place, make_city
from toycity.conditions import CONDITIONS, Condition
from toycity.config import PRETRAIN_SEEDS, TEST_SEED, TRAIN_SEEDS, VAL_SEED, ToyCityConfig
from toycity.crossview import CrossviewConfig, write_crossview
from toycity.mesh import CLASSES
from toycity.photos import rerender
from toycity.scene import Photo, Scene
from toycity.splits import drive_of, write_drive, write_limits
from toycity.views import random_camera, write_views
from toycity.writer import write_toycity
