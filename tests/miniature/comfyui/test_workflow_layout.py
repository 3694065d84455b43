"""Places of nodes: columns without overlaps, frames around what they hold, all of it in view."""

from itertools import combinations, count

from miniature.comfyui.workflow_layout import (
    GAP,
    NEWER_GAP,
    TITLE,
    VIEW,
    Group,
    arrange,
    newer_height,
    node_size,
    note_size,
    view,
)

numbers = count(1)


def node(width, height):
    return {"id": next(numbers), "size": [width, height]}


def box(node):
    """What a node covers, its title included: left, top, right, bottom."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height


def groups():
    return [
        Group("One", [[node(300, 200), node(330, 100)], [node(100, 700)]]),
        Group("Two", [[node(330, 50), node(330, 60), node(600, 70)]]),
    ]


def test_nodes_keep_their_distance():
    placed = groups()
    arrange(placed)
    boxes = [box(node) for group in placed for column in group.columns for node in column]
    for a, b in combinations(boxes, 2):
        beside = max(a[0], b[0]) - min(a[2], b[2])
        below = max(a[1], b[1]) - min(a[3], b[3])
        assert max(beside, below) >= GAP


def test_newer_nodes_which_are_higher_keep_a_distance_and_stay_in_their_frame():
    column = [node(300, 100), node(300, 100), node(300, 100)]
    heights = {node["id"]: height for node, height in zip(column, (150, 90, 130), strict=True)}
    frame = arrange([Group("One", [column], heights)])[0]
    tops = [node["pos"][1] - TITLE for node in column]
    assert tops[1] - column[0]["pos"][1] - 150 == NEWER_GAP
    assert tops[2] - column[1]["pos"][1] - 100 == GAP
    assert frame["bounding"][3] - column[2]["pos"][1] - 130 == NEWER_GAP


def test_heights_are_those_of_newer_nodes_in_the_page():
    """Measured in frontend 1.49.6, without the title, after a run."""
    assert newer_height("ImageBatch", 2, 1, 0, badge=False) == 54
    assert newer_height("CheckpointLoaderSimple", 0, 3, 1, badge=False) == 102
    assert newer_height("PairConditioningSetPropertiesAndCombine", 7, 2, 2, badge=True) == 234
    assert newer_height("DiffLoRADecode", 2, 1, 0, badge=True) == 78
    assert newer_height("DiffLoRALoadFaceAnalysis", 1, 1, 2, badge=True) == 114
    assert newer_height("DiffLoRAEncodeFace", 3, 3, 3, badge=True) == 414
    assert newer_height("DiffLoRAApply", 2, 1, 7, badge=True) == 338


def test_frames_hold_their_nodes_and_keep_their_distance():
    placed = groups()
    frames = arrange(placed)
    for frame, group in zip(frames, placed, strict=True):
        x, y, width, height = frame["bounding"]
        for left, top, right, bottom in (box(node) for column in group.columns for node in column):
            assert x < left < right < x + width
            assert y < top < bottom < y + height
    first, second = (frame["bounding"] for frame in frames)
    assert second[0] - (first[0] + first[2]) == GAP


def test_everything_is_in_view():
    frames = arrange([*groups(), *groups(), *groups()])
    shown = view(frames)
    for x, y, width, height in (frame["bounding"] for frame in frames):
        left, top = ((place + offset) * shown["scale"] for place, offset in zip((x, y), shown["offset"], strict=True))
        right, bottom = left + width * shown["scale"], top + height * shown["scale"]
        assert left >= VIEW[0] - 0.5
        assert top >= VIEW[1] - 0.5
        assert right <= VIEW[0] + VIEW[2] + 0.5
        assert bottom <= VIEW[1] + VIEW[3] + 0.5


def test_small_workflows_are_not_enlarged():
    assert view(arrange([Group("One", [[node(100, 50)]])]))["scale"] == 1.0


def test_sizes_grow_with_what_is_inside():
    assert node_size("Any", 1, 1, [])[1] < node_size("Any", 3, 1, [])[1] < node_size("Any", 3, 1, [False, True])[1]
    assert node_size("Any", 1, 1, [])[1] < node_size("PreviewImage", 1, 1, [])[1]
    assert note_size("short")[1] < note_size("long " * 60)[1]
