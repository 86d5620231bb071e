import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from faceresnet.video.addresses import Source, as_name, mask, mask_password, parse_sources


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("rtsp://admin:1234@10.0.0.7/stream", "rtsp://***@10.0.0.7/stream"),
        ("rtsp://admin@10.0.0.7:554/s", "rtsp://***@10.0.0.7:554/s"),
        ("rtsp://a:p@ss@host/x", "rtsp://***@host/x"),
        ("rtsp://a:pa/ss@host/x", "rtsp://***@host/x"),
        ("rtsp://a:p@a/ss@host/x", "rtsp://***@host/x"),
        ("RTSP://a:b@HOST/x", "RTSP://***@HOST/x"),
        ("rtsp://[fe80::1]:554/a@2x", "rtsp://[fe80::1]:554/a@2x"),
        ("rtsp://host:554/a", "rtsp://host:554/a"),
        ("rtsp://host/a@2x", "rtsp://host/a@2x"),
        ("rtsp://admin:00000/@10.0.0.7/x", "rtsp://***@10.0.0.7/x"),
        ("rtsp://admin:00]/x@10.0.0.7/x", "rtsp://***@10.0.0.7/x"),
        ("http://cam/video.cgi?user=joe&pwd=geheim&res=4", None),
        ("rtsp://cam/user=joe_password=geheim_channel=1.sdp", None),
        ("http://cam/live?u=1&p=geheim&stop=2", "http://cam/live?u=1&p=***&stop=2"),
        ("http://cam/live?pin=geheim&codec=h264", "http://cam/live?pin=***&codec=h264"),
        ("http://cam/live?access_code=geheim", "http://cam/live?access_code=***"),
        ("cannot open 'rtsp://a:geheim@h/x': no answer", "cannot open 'rtsp://***@h/x': no answer"),
        ("/videos/clip.mp4", "/videos/clip.mp4"),
        ("rtsp://h/a then http://u:geheim@k/b", "rtsp://h/a then http://***@k/b"),
    ],
)
def test_secrets_are_masked(text, masked):
    assert "geheim" not in mask(text)
    assert "joe&" not in mask(text)
    if masked is not None:
        assert mask(text) == masked
    assert mask(mask(text)) == mask(text)


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("http://joe:geheim@cam:80/x.jpg?p=1", "http://joe:***@cam:80/x.jpg?p=1"),
        ("http://joe:ge@heim@cam/x.jpg", "http://joe:***@cam/x.jpg"),
        ("http://cam:80/a@2x.jpg", "http://cam:80/a@2x.jpg"),
        ("http://cam/a:b@2x.jpg", "http://cam/a:b@2x.jpg"),
        ("abfs://folder@account.net/x.jpg", "abfs://folder@account.net/x.jpg"),
        ("a b:c@d.jpg", "a b:c@d.jpg"),
    ],
)
def test_results_name_addresses_without_passwords(address, named):
    assert mask_password(address) == named


SECRETS = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="'\"<>"),
    min_size=6,
)


@settings(deadline=None)
@given(password=SECRETS)
@example(password="00000/")
@example(password="0000]/")
@example(password="@/0000")
@example(password="000@[/")
@example(password="0@host/0")
def test_no_password_of_any_letters_comes_through(password):
    url = f"rtsp://admin:{password}@127.0.0.1:554/stream"
    assert password not in mask(f"cannot open '{url}': it is closed").replace("cannot open", "")
    (source,) = parse_sources([url])
    assert password not in mask(str(source.address))
    assert password not in source.name


def test_sources_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my clip.mp4").write_bytes(b"")
    (tmp_path / "a=b.mp4").write_bytes(b"")
    sources = parse_sources(
        [
            "rtsp://u:p@10.0.0.7:554/live/1?token=x",
            "front door=rtsp://10.0.0.8/s",
            "0",
            "my clip.mp4",
            "a=b.mp4",
            "rtsp://v:q@10.0.0.7:554/live/1",
            "/dev/video1",
        ]
    )
    assert sources == [
        Source("10.0.0.7_554_live_1", "rtsp://u:p@10.0.0.7:554/live/1?token=x", live=True),
        Source("front_door", "rtsp://10.0.0.8/s", live=True),
        Source("camera0", 0, live=True),
        Source("my_clip", "my clip.mp4", live=False),
        Source("a_b", "a=b.mp4", live=False),
        Source("10.0.0.7_554_live_1-2", "rtsp://v:q@10.0.0.7:554/live/1", live=True),
        Source("video1", "/dev/video1", live=True),
    ]


def test_a_list_of_cameras_is_read_from_a_file(tmp_path):
    (tmp_path / "cameras").write_text("# doors\n\nfront=rtsp://a:b@h/1\n  rtsp://h/2  \n")
    sources = parse_sources([f"@{tmp_path / 'cameras'}", "back=rtsp://h/3"])
    assert [(s.name, s.address) for s in sources] == [
        ("front", "rtsp://a:b@h/1"),
        ("h_2", "rtsp://h/2"),
        ("back", "rtsp://h/3"),
    ]
    (tmp_path / "cameras").write_text("front=rtsp://h/1\n", encoding="utf-8-sig")
    assert parse_sources([f"@{tmp_path / 'cameras'}"]) == [Source("front", "rtsp://h/1", live=True)]
    (tmp_path / "cameras").write_text("# none yet\n")
    with pytest.raises(ValueError, match="nothing to watch"):
        parse_sources([f"@{tmp_path / 'cameras'}"])
    (tmp_path / "cameras").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="it is no text"):
        parse_sources([f"@{tmp_path / 'cameras'}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.mp4"], "no video file is called 'gone.mp4'"),
        (["x" * 300], "no video file is called 'xxx"),
        (["a=" + "x" * 300], "no video file is called 'xxx"),
        (["ftp://u:geheim@host/x"], r"'ftp://\*\*\*@host/x' is no address of a camera"),
        (["rtsp://"], "is no address of a camera"),
        (["rtsp://u:geheim@h/1", "rtsp://u:geheim@h/1"], r"rtsp://\*\*\*@h/1 is given twice"),
        (["door=rtsp://h/1", "door=rtsp://h/2"], "two sources are called door"),
        (["."], "no video file"),
        (["@gone"], "cannot read the list of cameras gone: No such file"),
    ],
)
def test_what_is_no_source_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as refusal:
        parse_sources(arguments)
    assert "geheim" not in str(refusal.value)


@settings(deadline=None)
@given(st.text())
def test_names_are_names_of_files(text):
    name = as_name(text)
    assert 0 < len(name) <= 80
    assert "/" not in name
    assert "\0" not in name
    assert not name.startswith(".")
