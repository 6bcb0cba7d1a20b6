"""URL lists: fetched from a real server on loopback, within bounds, and never from where it is not allowed."""

import gc
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_rows import all_rows, bad_rows, good_rows, opened, versions
from web import Request, Web, web

from data_prep.sources import FetchesAhead, RowFault, SourceRow
from infra.errors import ConfigError

FAST = {"num_tries": 2, "backoff_seconds": 0.01, "timeout_seconds": 20}
HERE = {"private_hosts": ["127.0.0.1"]}
Rows = Callable[..., list[SourceRow]]


@pytest.fixture
def server() -> Iterator[Web]:
    with web() as found:
        yield found


@pytest.fixture
def rows_of(tmp_path: Path) -> Rows:
    """rows_of(*urls, rules=…, pace=…) -> the rows of a list of these."""

    def make(*urls: str, rules: dict[str, Any] = HERE, pace: dict[str, Any] = FAST) -> list[SourceRow]:
        path = tmp_path / "urls.jsonl"
        path.write_text("".join(json.dumps({"url": url, "caption": "a"}) + "\n" for url in urls))
        return good_rows(opened(kind="url_list", path=str(path), rules=rules, pace={**FAST, **pace}))

    return make


def fault(row: SourceRow) -> tuple[str, bool]:
    with pytest.raises(RowFault) as caught:
        row.image.read()
    assert "\n" not in caught.value.message
    return caught.value.reason, caught.value.passing


def test_an_image_is_fetched_when_it_is_read_and_not_before(server: Web, rows_of: Rows) -> None:
    urls = [server.answer(f"/{number}", lambda request: request.reply(b"picture")) for number in range(3)]
    rows = rows_of(*urls)
    assert not server.asked
    assert rows[1].image.read() == b"picture"
    assert server.asked == {"/1": 1}
    assert (rows[1].image.uri, rows[1].image.name) == (urls[1], urls[1])


def test_images_that_are_announced_are_fetched_together_and_the_others_never(server: Web, tmp_path: Path) -> None:
    """The server answers only when three requests are there at once."""
    together = threading.Barrier(3)

    def answer(request: Request) -> None:
        together.wait(30)
        request.reply(request.path.encode())

    lines = [{"url": server.answer(f"/{number}", answer), "caption": "a"} for number in range(9)]
    (tmp_path / "urls.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pace = {**FAST, "max_concurrent_per_host": 3}
    source = opened(kind="url_list", path=str(tmp_path / "urls.jsonl"), rules=HERE, pace=pace)
    assert isinstance(source, FetchesAhead)
    wanted = [row.image for row in good_rows(source)][:6]
    source.fetch_ahead(wanted)
    source.fetch_ahead(wanted)
    assert [image.read() for image in wanted] == [f"/{number}".encode() for number in range(6)]
    assert server.asked == {f"/{number}": 1 for number in range(6)}
    assert server.most == 3


@pytest.mark.parametrize("bound", [{"max_concurrent_per_host": 2}, {"max_concurrent": 2, "max_concurrent_per_host": 9}])
def test_no_more_are_fetched_at_once_than_the_pace_says(bound: dict[str, int], server: Web, tmp_path: Path) -> None:
    """Shown to fail (9 at once) without either semaphore."""
    crowd = threading.Event()

    def answer(request: Request) -> None:
        crowd.wait(0.05)  # set when a third request comes: then the others would have been let in too
        if server.now > 2:
            crowd.set()
        request.reply()

    lines = [{"url": server.answer(f"/{number}", answer), "caption": "a"} for number in range(9)]
    (tmp_path / "urls.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = opened(kind="url_list", path=str(tmp_path / "urls.jsonl"), rules=HERE, pace={**FAST, **bound})
    assert isinstance(source, FetchesAhead)
    images = [row.image for row in good_rows(source)]
    source.fetch_ahead(images)
    assert {image.read() for image in images} == {b"picture"}
    assert server.most <= 2


def test_a_rate_keeps_requests_apart(server: Web, rows_of: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by the waits that are asked for, not by a clock. Shown to fail without `_wait_for_turn`."""
    from data_prep.sources import fetching

    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(fetching.asyncio, "sleep", note)
    urls = [server.answer(f"/{number}", lambda request: request.reply()) for number in range(3)]
    for row in rows_of(*urls, pace={"requests_per_second_per_host": 0.001}):
        row.image.read()
    first, second, third = waits
    assert first == 0
    assert 900 < second <= 1000
    assert 1900 < third <= 2000


@pytest.mark.parametrize(
    ("status", "reason", "passing", "tries"),
    [
        (404, "not_found", False, 1),
        (410, "not_found", False, 1),
        (403, "refused_by_server", False, 1),
        (451, "refused_by_server", False, 1),
        (429, "too_many_requests", True, 2),
        (500, "server_error", True, 2),
        (503, "server_error", True, 2),
        (206, "refused_by_server", False, 1),
    ],
)
def test_a_status_decides_whether_it_is_tried_again(
    status: int, reason: str, passing: bool, tries: int, server: Web, rows_of: Rows
) -> None:
    (row,) = rows_of(server.answer("/a", lambda request: request.reply(status=status)))
    assert fault(row) == (reason, passing)
    assert server.asked["/a"] == tries


def test_a_server_that_was_busy_is_asked_again(server: Web, rows_of: Rows) -> None:
    def answer(request: Request) -> None:
        request.reply(status=503 if server.asked["/a"] == 1 else 200)

    (row,) = rows_of(server.answer("/a", answer))
    assert row.image.read() == b"picture"
    assert server.asked["/a"] == 2


@pytest.mark.parametrize("when", ["before the headers", "in the body"])
def test_a_slow_answer_is_a_passing_fault(when: str, server: Web, rows_of: Rows) -> None:
    def answer(request: Request) -> None:
        if when == "in the body":
            request.send_response(200)
            request.send_header("Content-Type", "image/png")
            request.send_header("Content-Length", "1000")
            request.end_headers()
            request.wfile.write(b"x")
            request.wfile.flush()
        server.over.wait(60)

    (row,) = rows_of(server.answer("/a", answer), pace={"timeout_seconds": 0.2, "num_tries": 1})
    assert fault(row) == ("time_out", True)


def test_a_body_that_is_shorter_than_it_says_is_a_passing_fault(server: Web, rows_of: Rows) -> None:
    def answer(request: Request) -> None:
        request.reply(b"short", content_length="1000")
        request.close_connection = True

    (row,) = rows_of(server.answer("/a", answer))
    assert fault(row) == ("connection_failed", True)


def test_nobody_listening_is_a_passing_fault(rows_of: Rows) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        (row,) = rows_of(f"http://127.0.0.1:{taken.getsockname()[1]}/a")
        assert fault(row) == ("connection_failed", True)


@pytest.mark.parametrize("says_its_size", [True, False])
def test_a_huge_body_is_cut_off(says_its_size: bool, server: Web, rows_of: Rows) -> None:
    """The server has 64 MB to send and cannot. Shown to fail by reading the body whole."""

    def answer(request: Request) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "image/png")
        name, value = ("Content-Length", str(64 * 2**20)) if says_its_size else ("Connection", "close")
        request.send_header(name, value)
        request.end_headers()
        for _ in range(1024):
            request.wfile.write(bytes(2**16))

    (row,) = rows_of(server.answer("/a", answer), rules={**HERE, "max_bytes": 1000})
    assert fault(row) == ("too_large", False)
    assert server.asked["/a"] == 1
    assert server.hung_up.wait(30)


def test_a_body_that_is_longer_than_it_says_is_not_taken_in(server: Web, rows_of: Rows) -> None:
    def answer(request: Request) -> None:
        request.reply(b"x" * 500)
        for _ in range(1024):
            request.wfile.write(bytes(2**16))

    (row,) = rows_of(server.answer("/a", answer))
    try:
        assert row.image.read() == b"x" * 500
    except RowFault as found:
        assert (found.reason, found.passing) == ("connection_failed", True)
    assert server.hung_up.wait(30)


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/html"},
        {"content_type": "application/x-python-pickle"},
        {"content_encoding": "gzip"},
        {"content_encoding": "br"},
    ],
)
def test_what_is_no_image_is_not_kept(headers: dict[str, str], server: Web, rows_of: Rows) -> None:
    (row,) = rows_of(server.answer("/a", lambda request: request.reply(**headers)))
    assert fault(row) == ("not_an_image", False)


@pytest.mark.parametrize("kind", ["image/jpeg", "image/svg+xml; charset=x", "application/octet-stream", ""])
def test_images_and_unnamed_bytes_are_kept(kind: str, server: Web, rows_of: Rows) -> None:
    (row,) = rows_of(server.answer("/a", lambda request: request.reply(content_type=kind)))
    assert row.image.read() == b"picture"


@pytest.mark.parametrize(
    "tag", ["noai", "NoImageAI", "noindex, nofollow", "nofollow,noimageindex", "none", "frostline: noai"]
)
def test_an_opt_out_is_respected(tag: str, server: Web, rows_of: Rows) -> None:
    (row,) = rows_of(server.answer("/a", lambda request: request.reply(x_robots_tag=tag)))
    assert fault(row) == ("opted_out", False)


def test_an_opt_out_behind_a_dated_directive_or_at_a_redirect_is_respected(server: Web, rows_of: Rows) -> None:
    dated = "unavailable_after: 25 Jun 2010 15:00:00 PST, noai"
    first = server.answer("/a", lambda request: request.reply(x_robots_tag=dated))
    second = server.answer("/b", lambda request: request.reply(status=302, location="/c", x_robots_tag="noai"))
    server.answer("/c", lambda request: request.reply())
    assert [fault(row) for row in rows_of(first, second)] == [("opted_out", False)] * 2


@pytest.mark.parametrize("tag", ["", "all", "nofollow", "otherbot: noai", "max-image-preview: large"])
def test_a_tag_that_says_nothing_of_the_kind_is_no_opt_out(tag: str, server: Web, rows_of: Rows) -> None:
    (row,) = rows_of(server.answer("/a", lambda request: request.reply(x_robots_tag=tag)))
    assert row.image.read() == b"picture"


def test_opt_outs_are_ignored_only_where_the_recipe_says_so(server: Web, rows_of: Rows) -> None:
    (row,) = rows_of(
        server.answer("/a", lambda request: request.reply(x_robots_tag="noai")), rules={**HERE, "opt_out": []}
    )
    assert row.image.read() == b"picture"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/a",
        "http://localhost:{port}/a",
        "http://0.0.0.0:{port}/a",
        "http://[::1]:{port}/a",
        "http://[::ffff:127.0.0.1]:{port}/a",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/a",
    ],
)
def test_an_address_that_is_not_public_is_refused(url: str, server: Web, rows_of: Rows) -> None:
    """Shown to fail (the loopback ones answer) with `socket_factory=None`."""
    server.answer("/a", lambda request: request.reply())
    (row,) = rows_of(url.format(port=server.server_port), rules={})
    assert fault(row) == ("refused_address", False)
    assert not server.asked


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "017700000001"])
def test_another_spelling_of_loopback_does_not_help(host: str, server: Web, rows_of: Rows) -> None:
    server.answer("/a", lambda request: request.reply())
    (row,) = rows_of(f"http://{host}:{server.server_port}/a", rules={}, pace={"num_tries": 1})
    assert fault(row)[0] in ("refused_address", "refused_url", "connection_failed")
    assert not server.asked


def test_a_name_is_checked_by_the_address_it_is_connected_to(
    server: Web, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is public when asked first and private afterwards: no second look-up counts, only the socket."""
    real = socket.getaddrinfo
    asked: list[Any] = []

    def resolve(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host != "rebinding.example":
            return real(host, port, *args, **more)
        asked.append(host)
        return real("127.0.0.1", port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    server.answer("/a", lambda request: request.reply())
    (row,) = rows_of(server.url("/a", "rebinding.example"), rules={})
    assert fault(row) == ("refused_address", False)
    assert asked
    assert not server.asked


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://localhost:{port}/secret", "refused_address"),
        ("//localhost:{port}/secret", "refused_address"),
        ("http://[::1]:{port}/secret", "refused_address"),
        ("http://169.254.169.254/latest/meta-data/", "refused_address"),
        ("file:///etc/passwd", "refused_url"),
        ("ftp://127.0.0.1/a", "refused_url"),
        ("http://user:word@127.0.0.1:{port}/secret", "refused_url"),
        ("http://[", "refused_url"),
        ("http://denied.example/a", "refused_host"),
        ("/a", "too_many_redirects"),
    ],
)
def test_a_redirect_leads_nowhere_else_than_a_url_may(location: str, reason: str, server: Web, rows_of: Rows) -> None:
    """Shown to fail by letting the library follow redirects with the session of the first host."""
    target = location.format(port=server.server_port)
    server.answer("/secret", lambda request: request.reply())
    url = server.answer("/a", lambda request: request.reply(status=302, location=target))
    (row,) = rows_of(url, rules={**HERE, "deny_hosts": ["*.example"]})
    assert fault(row) == (reason, False)
    assert not server.asked["/secret"]


def test_a_few_redirects_are_followed(server: Web, rows_of: Rows) -> None:
    url = server.answer("/0", lambda request: request.reply(status=301, location="1"))
    server.answer("/1", lambda request: request.reply(status=307, location="/2?a=b"))
    server.answer("/2?a=b", lambda request: request.reply())
    (row,) = rows_of(url)
    assert row.image.read() == b"picture"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "gopher://127.0.0.1/a",
        "data:image/png;base64,AAAA",
        "http://",
        "http://user:word@127.0.0.1/a",
        "http://127.0.0.1:99999/a",
        "http://[::1/a",
        "http://a\0b/",
        "http://127.0.0.1/" + "a" * 9000,
        "http://\ud800/",
    ],
)
def test_a_url_of_another_kind_is_refused(url: str, rows_of: Rows) -> None:
    (row,) = rows_of(url)
    assert fault(row) == ("refused_url", False)
    with pytest.raises(RowFault) as caught:
        row.image.read()
    assert "word" not in caught.value.message.replace("password", "").replace("passwd", "")


def test_hosts_are_allowed_and_denied(server: Web, rows_of: Rows) -> None:
    url = server.answer("/a", lambda request: request.reply())
    (allowed,) = rows_of(url, rules={**HERE, "allow_hosts": ["*.0.0.1"]})
    assert allowed.image.read() == b"picture"
    for rules in ({"allow_hosts": ["images.example"]}, {"deny_hosts": ["127.0.0.*"]}):
        (row,) = rows_of(url, rules={**HERE, **rules})
        assert fault(row) == ("refused_host", False)
    assert server.asked["/a"] == 1


def test_no_cookie_no_password_and_no_proxy_is_sent(
    server: Web, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []

    def answer(request: Request) -> None:
        seen.append(dict(request.headers))
        request.reply(set_cookie="a=b")

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for row in rows_of(server.answer("/a", answer), server.answer("/b", answer)):
        row.image.read()
    assert all(not {"Cookie", "Authorization"} & set(headers) for headers in seen)
    assert seen[1]["User-Agent"] == "frostline"


def test_a_certificate_that_nobody_vouches_for_is_not_taken(server: Web, rows_of: Rows, tmp_path: Path) -> None:
    """Shown to fail with `ssl=False`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    (tmp_path / "server.pem").write_bytes(secret + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    (row,) = rows_of(server.answer("/a", lambda request: request.reply()).replace("http:", "https:"))
    assert fault(row) == ("connection_failed", True)
    assert not server.asked


def test_lists_are_read_in_each_format(tmp_path: Path) -> None:
    urls = ["http://a.example/1.jpg", "http://a.example/2.jpg"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"url": url, "caption": "a b"}) + "\n" for url in urls))
    (tmp_path / "b.csv").write_text("url,caption\n" + "".join(f"{url},a b\n" for url in urls))
    (tmp_path / "c.tsv").write_text("url\tcaption\n" + "".join(f"{url}\ta b\n" for url in urls))
    pq.write_table(pa.table({"url": urls, "caption": ["a b", "a b"]}), tmp_path / "d.parquet")
    (tmp_path / "e.txt").write_text("".join(f"{url} a b\n\n" for url in urls))
    source = opened(kind="url_list", path=str(tmp_path))
    assert [file.name for file in source.files()] == ["a.jsonl", "b.csv", "c.tsv", "d.parquet", "e.txt"]
    for file in source.files():
        rows = list(source.rows(file))
        assert [(row.row, row.image.uri, row.targets) for row in rows if isinstance(row, SourceRow)] == [
            (0, urls[0], ("a b",)),
            (1, urls[1], ("a b",)),
        ]


def test_bad_lines_are_bad_rows_in_each_format(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"url": "http://a.example/1"\n{"caption": "a"}\n')
    (tmp_path / "b.csv").write_text("url,caption\nhttp://a.example/1\n")
    (tmp_path / "e.txt").write_text("http://a.example/1\n")
    source = opened(kind="url_list", path=str(tmp_path))
    assert len(bad_rows(source)) == len(all_rows(source)) == 4
    (tmp_path / "f.json").write_text("[]")
    with pytest.raises(ConfigError, match="suffix"):
        all_rows(opened(kind="url_list", path=str(tmp_path / "f.json")))


def test_the_pace_is_no_part_of_the_version_and_the_rules_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("")
    config: dict[str, Any] = {"kind": "url_list", "path": str(path)}
    before = versions(opened(**config))
    assert versions(opened(**config, pace={"max_concurrent": 1})) == before
    assert versions(opened(**config, rules={"deny_hosts": ["a.example"]})) != before


def test_the_thread_ends_with_its_source(server: Web, rows_of: Rows) -> None:
    rows = rows_of(server.answer("/a", lambda request: request.reply()))
    rows[0].image.read()
    assert any(thread.name == "fetcher" for thread in threading.enumerate())
    del rows
    gc.collect()
    assert not any(thread.name == "fetcher" for thread in threading.enumerate())
